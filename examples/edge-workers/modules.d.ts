/** What wrangler makes of the files that a worker imports, by the rules of wrangler.jsonc. */
declare module "rsparse/kernels.baseline.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
declare module "rsparse/tiny.rsparse" {
  const bytes: ArrayBuffer;
  export default bytes;
}
