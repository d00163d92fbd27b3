// What the baseline and the debug build export: all of the others', and prefill for the order of nibbles that only they have.
export * from "./index";
export * from "./unpack_group_i4";
