// Runs CUDA kernels on the CPU, for tests. translate.py turns a .cu file into C++ that includes this header.
//
// Each thread of a block is a fiber with its own stack. Shared memory and barriers are real; shared memory is not
// initialised to zero. A fiber runs until it reaches a barrier or ends, and then another one runs. The blocks of a grid
// run one after another. The program is aborted if a barrier is not reached by all threads that it is for.
//
// Environment variables:
//   EMULATED_ORDER       order of the threads between two barriers: forward (default), reverse or random. Which
//                        missing barriers change the results depends on it.
//   EMULATED_MAX_BLOCKS  upper limit of the grid size, so that small tensors have more work than the grid has threads
//
// Not emulated: the execution of several blocks at the same time, contraction to FMA, the accuracy of CUDA's
// mathematical functions, streams and errors of launches.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (emulated::block().running->index)
#define blockIdx (emulated::block().index)
#define blockDim (emulated::block().size)
#define gridDim (emulated::block().grid)
#define __syncwarp() emulated::wait(emulated::State::kAtWarpBarrier, __LINE__)
#define __syncthreads() emulated::wait(emulated::State::kAtBlockBarrier, __LINE__)
using std::min;

struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

namespace emulated {
namespace {  // two libraries in one process share nothing

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kEnded };
enum class Order { kForward, kReverse, kRandom };
constexpr size_t kStackBytes = 256 * 1024, kSharedBytes = 48 * 1024, kWarpSize = 32;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};  // its pages are used once the fiber runs
  dim3 index;
  State state;
  int line;  // of the barrier at which the fiber waits
};

struct SharedVariable {
  int line;  // of the declaration
  size_t bytes;
  std::unique_ptr<char[]> data;  // one allocation per variable, so that AddressSanitizer knows its bounds
};

// The block that is running.
struct Block {
  dim3 grid, size, index;
  ucontext_t scheduler;
  std::vector<Fiber> fibers;  // of the threads; further ones are kept for larger blocks
  size_t threads;
  std::vector<SharedVariable> shared;
  size_t dynamic_bytes;  // of shared memory whose size is an argument of the launch
  Fiber* running;
  const std::function<void()>* kernel;
  std::mt19937 random;
};

Block& block() {
  static Block block;
  return block;
}

// The number of launches of each instance of a kernel template.
std::map<std::string, int64_t>& launches() {
  static std::map<std::string, int64_t> launches;
  return launches;
}

// Called by each thread at the start of a kernel. The first thread of the grid counts the launch.
void enter_kernel(const char* signature) {
  const dim3 thread = block().running->index;
  if (block().index.x == 0 && thread.x == 0 && thread.y == 0 && thread.z == 0) ++launches()[signature];
}

[[noreturn]] void fail(const char* what, int line) {
  std::fprintf(stderr, "emulated CUDA, line %d: %s\n", line, what);
  std::abort();
}

Order order_of_threads() {
  const char* const name = std::getenv("EMULATED_ORDER");
  if (name == nullptr || std::strcmp(name, "forward") == 0) return Order::kForward;
  if (std::strcmp(name, "reverse") == 0) return Order::kReverse;
  if (std::strcmp(name, "random") == 0) return Order::kRandom;
  fail("EMULATED_ORDER must be forward, reverse or random", 0);
}

// The grid size limit of a .cu file, or EMULATED_MAX_BLOCKS if that is less.
int64_t max_blocks(int64_t limit) {
  const char* const value = std::getenv("EMULATED_MAX_BLOCKS");
  return value == nullptr ? limit : std::max<int64_t>(1, std::min<int64_t>(limit, std::atoll(value)));
}

// Stops the running fiber until the scheduler resumes it.
void wait(State state, int line) {
  Fiber* const fiber = block().running;
  fiber->state = state;
  fiber->line = line;
  swapcontext(&fiber->context, &block().scheduler);
}

void run_fiber() {
  (*block().kernel)();
  wait(State::kEnded, 0);
}

// The block's shared variable declared at `line`. Its bytes are 0xff at first: NaN in every floating-point type.
char* shared_bytes(int line, size_t size) {
  auto& variables = block().shared;
  size_t bytes = size;
  for (const SharedVariable& variable : variables) {
    if (variable.line == line) return variable.data.get();
    bytes += variable.bytes;
  }
  if (bytes > kSharedBytes) fail("more than 48 KiB of shared memory", line);
  variables.push_back({line, size, std::unique_ptr<char[]>(new char[size])});
  std::memset(variables.back().data.get(), 0xff, size);
  return variables.back().data.get();
}

template <typename T>
T& shared(int line) {
  return *reinterpret_cast<T*>(shared_bytes(line, sizeof(T)));
}

// The shared memory whose size is an argument of the launch.
template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(shared_bytes(0, block().dynamic_bytes));
}

// Makes the fibers [first, last) ready if one of them waits in `state`. Fails unless all of them wait at that barrier.
// Returns whether fibers were made ready.
bool release(size_t first, size_t last, State state) {
  auto& fibers = block().fibers;
  const auto begin = fibers.begin() + first, end = fibers.begin() + last;
  const auto waiting = std::find_if(begin, end, [&](const Fiber& fiber) { return fiber.state == state; });
  if (waiting == end) return false;
  const int line = waiting->line;
  const auto at_barrier = [&](const Fiber& fiber) { return fiber.state == state && fiber.line == line; };
  if (!std::all_of(begin, end, at_barrier)) fail("not all threads reach this barrier", line);
  std::for_each(begin, end, [](Fiber& fiber) { fiber.state = State::kReady; });
  return true;
}

// Runs the fibers of the block until all have ended.
void run_block(Order order) {
  Block& b = block();
  std::vector<Fiber*> fibers;
  for (size_t i = 0; i < b.threads; ++i) fibers.push_back(&b.fibers[i]);
  if (order == Order::kReverse) std::reverse(fibers.begin(), fibers.end());
  const auto release_warps = [&](bool all) {
    bool released = false;
    for (size_t first = 0; first < fibers.size(); first += kWarpSize) {
      if (!all && b.random() % 2) continue;
      released |= release(first, std::min(first + kWarpSize, fibers.size()), State::kAtWarpBarrier);
    }
    return released;
  };
  for (bool progress = true; progress;) {
    if (order == Order::kRandom) std::shuffle(fibers.begin(), fibers.end(), b.random);
    progress = false;
    for (Fiber* const fiber : fibers) {
      if (fiber->state != State::kReady) continue;
      progress = true;
      b.running = fiber;
      swapcontext(&b.scheduler, &fiber->context);
    }
    // In random order, some warps stay at their barrier while others go on.
    progress |= release_warps(order != Order::kRandom);
    if (!progress) progress = release_warps(true);
    if (!progress) progress = release(0, fibers.size(), State::kAtBlockBarrier);
  }
}

void start_fiber(Fiber& fiber, dim3 index) {
  fiber.index = index;
  fiber.state = State::kReady;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, run_fiber, 0);
}

// Runs a kernel: `kernel` is the body of one thread.
void launch(dim3 grid, dim3 size, size_t dynamic_bytes, const std::function<void()>& kernel) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  Block& b = block();
  const unsigned int threads = size.x * size.y * size.z;
  if (threads < 1 || threads > 1024) fail("a block must have 1 to 1024 threads", 0);
  if (grid.x < 1 || grid.x > 0x7fffffff || grid.y != 1 || grid.z != 1) fail("the grid must be 1-D and not empty", 0);
  const Order order = order_of_threads();
  b.grid = grid;
  b.size = size;
  b.kernel = &kernel;
  b.threads = threads;
  b.dynamic_bytes = dynamic_bytes;
  if (b.fibers.size() < threads) b.fibers = std::vector<Fiber>(threads);
  for (b.index = dim3(0, 0, 0); b.index.x < grid.x; ++b.index.x) {
    b.shared.clear();
    for (unsigned int i = 0; i < threads; ++i) {
      start_fiber(b.fibers[i], dim3(i % size.x, i / size.x % size.y, i / size.x / size.y));
    }
    run_block(order);
  }
}

}  // namespace
}  // namespace emulated

// The launches so far, one line "count signature" for each instance of a kernel template.
extern "C" const char* emulated_launches() {
  static std::string text;
  text.clear();
  for (const auto& [signature, count] : emulated::launches()) text += std::to_string(count) + " " + signature + "\n";
  return text.c_str();
}
