// Thread pool, scratch memory and tensor memory. Every parallel_for is a job; its tasks lie in lanes, one for each thread,
// and are claimed one by one from the lane's `ticket`, a word that holds the number of the job and the next task. A thread
// begins with its own lane, so that the same part of the rows stays in its caches from kernel to kernel, and then helps
// the others. A thread that wakes late finds another job's number and leaves, so nobody waits for threads that sleep.
// Waiting threads spin for 50 microseconds, then sleep.
// Does not nest: a task must not call parallel_for, and a context belongs to one calling thread at a time.
#include "context.h"

#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__x86_64__)
#define TY_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define TY_PAUSE() __asm__ volatile("yield")
#else
#define TY_PAUSE() ((void)0)
#endif
#define TY_PUBLIC __attribute__((visibility("default")))

namespace {
constexpr size_t kHugePage = size_t(2) << 20;

// 64-byte aligned memory. Large blocks start on a huge page and ask for huge ones: a matrix product walks down columns,
// a new 4 KiB page each step, and would otherwise spend its time on address translation.
void* allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  void* atLeast(size_t wanted) {
    if (wanted > bytes) {
      free(memory);
      bytes = (wanted + 0xffff) & ~size_t(0xffff);
      memory = allocate(bytes);
      if (memory == nullptr) abort();  // a kernel has no way to report; nothing sensible can follow
    }
    return memory;
  }
  ~Block() { free(memory); }
};

constexpr std::chrono::microseconds kSpin(50);

// Spins until `ready()` or until the time is up; returns ready(). The clock is read seldom: it costs as much as a check.
template <typename Ready>
bool spinFor(const Ready& ready) {
  for (int i = 0; i < 64; i++) {
    if (ready()) return true;
    TY_PAUSE();
  }
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      TY_PAUSE();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// A ticket: number of the job in the high 32 bits, next task in the low 32.
constexpr int kTaskBits = 32;
constexpr uint64_t kTaskMask = (uint64_t(1) << kTaskBits) - 1;
constexpr uint64_t jobOf(uint64_t ticket) { return ticket >> kTaskBits; }
}  // namespace

// Opening a job writes to every lane: more of them would cost large machines more than they win.
constexpr int kMostLanes = 8;

struct alignas(64) Lane {
  std::atomic<uint64_t> ticket{kTaskMask};
};

struct TyContext {
  std::vector<std::thread> workers;
  std::vector<Block> scratch;
  Block shared;

  int laneCount = 1;
  Lane lanes[kMostLanes];
  // The job's fields. They are read before a claim and count only if the claim succeeds, which proves that they are of
  // the ticket's job; atomic because a late thread may read them while the next job is being written.
  alignas(64) std::atomic<int64_t> tasks{0};
  std::atomic<TyTask> task{nullptr};
  std::atomic<void*> argument{nullptr};
  alignas(64) std::atomic<int64_t> done{0};

  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> callerSleeps{false};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
};

static Lane& laneOf(TyContext* context, int thread) { return context->lanes[thread % context->laneCount]; }

// Claims and runs tasks of job `job`, those of the own lane first, until none is left.
static void runTasks(TyContext* context, uint64_t job, int thread) {
  int64_t completed = 0;
  const int64_t tasks = context->tasks.load(std::memory_order_relaxed);
  const TyTask task = context->task.load(std::memory_order_relaxed);
  void* const argument = context->argument.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  const int count = context->laneCount;
  for (int i = 0; i < count; i++) {
    const int lane = (thread + i) % count;
    const int64_t end = tasks * (lane + 1) / count;
    std::atomic<uint64_t>& next = context->lanes[lane].ticket;
    uint64_t ticket = next.load(std::memory_order_acquire);
    while (jobOf(ticket) == job && int64_t(ticket & kTaskMask) < end) {
      if (!next.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      task(argument, int64_t(ticket & kTaskMask), thread);
      completed++;
      ticket = next.load(std::memory_order_acquire);
    }
  }
  if (completed == 0) return;
  // seq_cst: against the caller, which sets callerSleeps and then looks at `done`.
  if (context->done.fetch_add(completed) + completed == tasks && thread != 0 && context->callerSleeps.load()) {
    std::lock_guard<std::mutex> lock(context->mutex);
    context->finished.notify_one();
  }
}

static void workerLoop(TyContext* context, int thread) {
  const std::atomic<uint64_t>& next = laneOf(context, thread).ticket;
  uint64_t seen = jobOf(kTaskMask);
  uint64_t ticket = kTaskMask;
  // The ticket that was seen open decides the job. Looked up again it could be the next job's, still closed, whose fields
  // are being written: this thread would read old fields and claim the new job's tasks with them.
  const auto isNew = [&] {
    ticket = next.load();
    return (jobOf(ticket) != seen && (ticket & kTaskMask) != kTaskMask) || context->stop.load();
  };
  for (;;) {
    if (!spinFor(isNew)) {
      std::unique_lock<std::mutex> lock(context->mutex);
      context->sleepers.fetch_add(1);
      context->wake.wait(lock, isNew);
      context->sleepers.fetch_sub(1);
    }
    if (context->stop.load()) return;
    seen = jobOf(ticket);
    runTasks(context, seen, thread);
  }
}

extern "C" {
TY_PUBLIC TyContext* ty_context_create(int threads) {
  TyContext* context = new TyContext();
  context->scratch = std::vector<Block>(size_t(threads));
  context->laneCount = threads < kMostLanes ? threads : kMostLanes;
  for (int i = 1; i < threads; i++) context->workers.emplace_back(workerLoop, context, i);
  return context;
}

TY_PUBLIC void ty_context_destroy(TyContext* context) {
  {
    std::lock_guard<std::mutex> lock(context->mutex);
    context->stop.store(true);
  }
  context->wake.notify_all();
  for (auto& worker : context->workers) worker.join();
  delete context;
}

TY_PUBLIC int ty_threads(const TyContext* context) { return int(context->scratch.size()); }

void ty_parallel_for(TyContext* context, int64_t tasks, TyTask task, void* argument) {
  if (tasks <= 1 || context->workers.empty()) {
    for (int64_t i = 0; i < tasks; i++) task(argument, i, 0);
    return;
  }
  // Close the tickets first: a late thread that reads the new fields cannot claim with an old ticket any more.
  const int count = context->laneCount;
  const uint64_t job = (jobOf(context->lanes[0].ticket.load(std::memory_order_relaxed)) + 1) & (~uint64_t(0) >> kTaskBits);
  for (int i = 0; i < count; i++)
    context->lanes[i].ticket.store((job << kTaskBits) | kTaskMask, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  context->tasks.store(tasks, std::memory_order_relaxed);
  context->task.store(task, std::memory_order_relaxed);
  context->argument.store(argument, std::memory_order_relaxed);
  context->done.store(0, std::memory_order_relaxed);
  for (int i = count - 1; i >= 0; i--)
    context->lanes[i].ticket.store((job << kTaskBits) | uint64_t(tasks * i / count), std::memory_order_release);
  // seq_cst on both sides: either we see the sleeper, or it sees the new ticket before it sleeps.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (context->sleepers.load() > 0) {
    { std::lock_guard<std::mutex> lock(context->mutex); }
    context->wake.notify_all();
  }
  runTasks(context, job, 0);
  const auto isDone = [&] { return context->done.load() == tasks; };
  if (spinFor(isDone)) return;
  std::unique_lock<std::mutex> lock(context->mutex);
  context->callerSleeps.store(true);
  context->finished.wait(lock, isDone);
  context->callerSleeps.store(false);
}

void* ty_scratch(TyContext* context, int thread, size_t bytes) {
  return context->scratch[size_t(thread)].atLeast(bytes);
}
void* ty_shared_scratch(TyContext* context, size_t bytes) { return context->shared.atLeast(bytes); }
// Bytes of all scratch that the kernels have asked for so far.
TY_PUBLIC int64_t ty_scratch_held(int64_t context) {
  const TyContext* c = reinterpret_cast<const TyContext*>(context);
  int64_t bytes = int64_t(c->shared.bytes);
  for (const Block& block : c->scratch) bytes += int64_t(block.bytes);
  return bytes;
}

// Memory of tensors; 0 when there is not enough.
TY_PUBLIC int64_t ty_allocate(int64_t bytes) { return reinterpret_cast<int64_t>(allocate(size_t(bytes))); }
TY_PUBLIC void ty_free(int64_t address) { free(reinterpret_cast<void*>(address)); }

// Runs jobs of at most `tasks` tasks, each with a number of tasks of its own, and returns in how many of them a task did not
// run exactly once: for tests, and for what a fork and join costs.
TY_PUBLIC int64_t ty_fork_join(int64_t context, int64_t jobs, int64_t tasks) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < jobs; i++) {
    const int64_t count = tasks - i % (tasks / 2 + 1);
    std::atomic<int64_t> sum(0);
    parallel_for(reinterpret_cast<TyContext*>(context), count,
                 [&](int64_t task, int) { sum.fetch_add(task + i, std::memory_order_relaxed); });
    if (sum.load() != count * (count - 1) / 2 + count * i) wrong++;
  }
  return wrong;
}

// The widest instruction set (isa.h: 5, 2 or 0) that this processor and operating system support, plus 16 where
// AVX512-BF16 is there too. __builtin_cpu_supports asks the operating system for the register state as well.
TY_PUBLIC int ty_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 5 | (__builtin_cpu_supports("avx512bf16") ? 16 : 0);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 2;
#endif
  return 0;
}
}
