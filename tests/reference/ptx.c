/* Kernels of PTX, interpreted: what a GPU computes, slowly, on any machine. Included by idle_cuda.c.
 *
 * A warp's 32 threads go on together; where a branch parts them, one way is gone after the other, until both meet.
 * Warps of a block go on by turns from barrier to barrier, blocks on all processors. Shared memory begins as NaN. All
 * address spaces are the host's memory. Registers are 64 bits; a fragment of `wmma` is in an order of its own, those of
 * `mma`, `ldmatrix` and `stmatrix` in the order that PTX gives them. It knows the instructions that LLVM writes for
 * CubeCL's kernels, and stops at any other. */

#include "ptx/program.h"

#include "ptx/numbers.c"
#include "ptx/read.c"
#include "ptx/tiles.c"
#include "ptx/step.c"
#include "ptx/run.c"
