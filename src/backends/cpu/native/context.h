// The execution context of the CPU kernels: a thread pool and per-thread scratch memory behind one handle.
// There are no mutable globals: several worker threads of one process each make a context of their own.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct TyContext;

// Called once for each task in [0, tasks). `thread` is in [0, ty_threads) and only says whose scratch to use:
// what a task computes must depend on `task` alone, so that results do not depend on the number of threads.
typedef void (*TyTask)(void* argument, int64_t task, int thread);

extern "C" {
// `threads` counts the caller. Waiting threads spin for at most 50 microseconds, then sleep.
TyContext* ty_context_create(int threads);
void ty_context_destroy(TyContext* context);
int ty_threads(const TyContext* context);
// Runs all tasks, the calling thread takes part, returns when all are done. Tasks are handed out in order.
void ty_parallel_for(TyContext* context, int64_t tasks, TyTask task, void* argument);
// At least `bytes` of 64-byte aligned memory of this thread, kept for the next call (grown, never shrunk).
void* ty_scratch(TyContext* context, int thread, size_t bytes);
// The same, one block for the whole context (packed panels shared by all threads).
void* ty_shared_scratch(TyContext* context, size_t bytes);
}

#ifdef __cplusplus
// ty_parallel_for for a callable f(task, thread).
template <typename F>
static inline void parallel_for(TyContext* context, int64_t tasks, const F& f) {
  ty_parallel_for(
      context, tasks,
      [](void* argument, int64_t task, int thread) { (*static_cast<const F*>(argument))(task, thread); },
      const_cast<void*>(static_cast<const void*>(&f)));
}
#endif
