/** Turns of the event loop for what else goes on in the thread that computes. */

/** Lets messages that wait be handled, in some microseconds. Signals and keys may still wait: see {@linkcode wholeTurn}. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/**
 * Lets everything that waits be handled, in a millisecond or four. Neither half does it alone: in Deno 2.9 a SIGINT was
 * seen only after 60 turns of messages, in Node 24 after as many timers, which run on while each is due when it is set.
 */
export async function wholeTurn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
  await nextTurn();
}
