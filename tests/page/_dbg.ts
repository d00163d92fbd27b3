import { withPage } from "../support/page.ts";
await withPage({ isolated: true }, async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  console.log(await page.evaluate(() => [...document.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > 360).map((e) => e.tagName + "#" + e.id + "." + e.className + " " + JSON.stringify(e.getBoundingClientRect()))));
});
