/** Starts a team, uses it, and does not close it. */
import { openTeam } from "../support/team.ts";

const { team } = await openTeam(3);
team.each(16, () => {});
console.log(`${team.threads} threads`);
