#pragma once
// Where simulated time enters: empty for synthesis and in C simulation, where a process is a plain call.
//
// ATTNC_LOOP(label)         stands before the label of a pipelined loop, which then begins (and an earlier one of the process has ended)
// ATTNC_TICK(label)         stands first in its body: an iteration begins
// ATTNC_DEPTH(fifo, depth)  the bound of a stream, beside its pragma
// ATTNC_REGION              stands in a dataflow region behind its streams: its processes run at the same time and it ends when all have
// ATTNC_PROCESS(name, call) one of them
// ATTNC_PORT(pointer)       gives an argument of the accelerator its name
// ATTNC_STAGE(number)       the instruction that begins
//
// II and depth of a loop are known by its label (loops.txt beside the simulator).

#ifdef ATTNC_COSIM
#include <attnc_cosim.h>
#else
#define ATTNC_LOOP(label)
#define ATTNC_TICK(label)
#define ATTNC_DEPTH(fifo, depth)
#define ATTNC_REGION
#define ATTNC_PROCESS(name, ...) __VA_ARGS__
#define ATTNC_PORT(pointer)
#define ATTNC_STAGE(number)
#endif
