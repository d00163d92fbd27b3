/** Numbers and errors as people read them. */

/** `13 MB`. */
export function bytes(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} GB`;
  return value >= 1e6 ? `${Math.round(value / 1e6)} MB` : `${Math.ceil(value / 1e3)} kB`;
}

/** `40 %`. */
export function percent(share: number, digits = 0): string {
  return `${(share * 100).toFixed(digits)} %`;
}

/** `31.2 tokens/s`. */
export function speed(tokensPerSecond: number | null): string {
  if (tokensPerSecond === null) return "–";
  return `${tokensPerSecond.toFixed(tokensPerSecond < 100 ? 1 : 0)} tokens/s`;
}

/** `134.5 million parameters`. */
export function parameters(count: number): string {
  return count >= 1e9
    ? `${(count / 1e9).toFixed(1)} billion parameters`
    : count >= 1e6
    ? `${Number((count / 1e6).toFixed(1))} million parameters`
    : `${Math.round(count / 1e3)} thousand parameters`;
}

/** `1 thread: not cross-origin isolated`: the reason up to what to do about it, which the model tab has. */
export function threadsInShort(threads: number, reason: string | null): string {
  const count = threads === 1 ? "1 thread" : `${threads} threads`;
  return reason === null ? count : `${count}: ${reason.replace(/^the page is /, "").replace(/: .*$/, "")}`;
}

/** Whether a call ended because it was stopped, which nobody needs to be told. */
export function wasStopped(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

/** What an error means to a person: what could not be done, why, what to do next. */
export function inWords(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { name, message } = error;
  if (name === "QuotaExceededError") {
    const found = /takes/.test(message) ? `${message.replace(/\.$/, "")}.` : "There is no room for it.";
    return `This browser can't keep the model. ${found} Delete a model that is kept, or drop the file onto the page: dropped files are not copied.`;
  }
  if (name === "NoModificationAllowedError") {
    return "Another tab of this page is writing this file: wait for it, or close that tab.";
  }
  if (name === "NotReadableError" || name === "NotFoundError") {
    return "The file can't be read any more: it was moved, changed or deleted. Choose it again.";
  }
  if (name === "TypeError" && /fetch|network/i.test(message)) {
    return "The address can't be reached: the network is off, there is no such server, or it doesn't let other pages read its files (CORS). Download the file yourself and drop it here.";
  }
  if (name === "CompileError" || /wasm|WebAssembly/.test(message) && name !== "RangeError") {
    return `This browser can't run the kernels: WebAssembly with SIMD is needed, which Chrome 91, Firefox 89, Safari 16.4 and later have. (${message})`;
  }
  if (name === "RangeError" && /memory|allocat/i.test(message)) {
    return `Memory does not suffice for this model in this browser. ${message}`;
  }
  if (name === "TypeError" && /digest|subtle/.test(message)) {
    return "A recipe can't be checked against the model here: the page did not come over https (or from this machine).";
  }
  // our own messages are written to be read
  return message.replace(/rsparse calibrate(?: -o FILE)?/g, "“Calibrate here”");
}
