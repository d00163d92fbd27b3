/** In place of the kernels that other bundles have inside. */
throw new TypeError(
  "Cannot load: rsparse/edge has no kernels inside: give Model.load those of rsparse/kernels.baseline.wasm as `kernels`, compiled or as bytes",
);
export default "";
