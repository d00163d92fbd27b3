/** Turns of the event loop for what else goes on in the thread that computes. */

/** Where there is one (Deno, Node, Bun): lets timers, signals and sockets have their turn in 2 to 4 microseconds. */
const immediate = (globalThis as { setImmediate?: (callback: () => void) => unknown }).setImmediate;

/**
 * Lets everything that waits be handled. A timer of 0 ms would do so too, but takes 1 to 2 ms; a message, which browsers get, takes 5 to 30
 * microseconds, and in Bun leaves timers waiting for up to ten turns.
 */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (immediate !== undefined) {
      immediate(resolve);
      return;
    }
    // Cloudflare's workers have neither unless they are asked for
    if (typeof MessageChannel === "undefined") {
      setTimeout(resolve, 0);
      return;
    }
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
