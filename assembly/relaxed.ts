// What the relaxed build exports: all of the others', and the kernels that only relaxed SIMD makes worth their bytes.
export * from "./index";
export * from "./gemv_quad_i4";
export * from "./pack_quad_i4";
export * from "./gemm_quad_i4";
