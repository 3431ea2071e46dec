#pragma once
// Simulated time for the emitted C++: every process of a dataflow region is a fiber with a clock of its own, every stream is bounded and its
// tokens carry times, memory ports answer late and share the ports of the board.
//
// Process   runs ahead until it must wait. Of those that can go on, the one whose clock is behind all others does, so what it sees of the
//           rest (`empty`, who asks a port first) is what hardware shows at that time. No threads: the same run gives the same times.
// Loop      an iteration begins II cycles after the one before, reads when it begins and writes depth - 1 cycles later; a loop ends depth
//           cycles after its last iteration began, and takes a cycle to enter and one to leave.
// Style     "stp": a read that waits stops the whole pipeline, and what is inside stays there. "flp": what is inside goes on. A write that
//           waits stops the pipeline in both.
// Stream    a token can be read a cycle after it was written; its place is free a cycle after it was read.
// Memory    the first beat comes `latency` cycles after the request, then one per cycle, whether the kernel takes them or not: an adapter
//           keeps AHEAD of them. A port of the board serves those that ask it CHUNK beats at a time in turn, and all ports together move
//           at most `rate` bytes per cycle. What is written waits in the adapter likewise, and is answered `response` cycles after its
//           last beat.
// Stalls    where a seed is given: now and then a read, a write or a beat of memory waits some cycles more than it has to, and `empty` is true
//           though a token is there. The same seed gives the same run. What a design computes must not depend on them.
// Deadlock  no process can go on: who waits for what is reported, exit code 4.

#include "attnc_fiber.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <vector>

namespace attnc {
namespace cosim {

typedef std::int64_t Time;
enum Cause { EMPTY, FULL, MEMORY, JOIN, CAUSES };
inline const char* cause_name(int cause) {
  static const char* const names[] = {"empty", "full", "memory", "join"};
  return names[cause];
}
// What cycles of a process are counted by over time: waiting by cause, iterations begun, all from its start to its end.
enum { WORKING = CAUSES, ACTIVE, BINS };
inline const char* bin_name(int bin) { return bin < CAUSES ? cause_name(bin) : bin == WORKING ? "working" : "active"; }

static constexpr int DEADLOCK = 4;   // exit code
static constexpr int CHUNK = 16;     // beats that a port of the board serves at a time
static constexpr int AHEAD = 64;     // chunks that an adapter keeps: 16 bursts of 64 beats, as the interfaces ask for
static constexpr Time NEVER = std::numeric_limits<Time>::max();
static constexpr std::size_t STACK = 1 << 20;
static constexpr Time FIXED = 1 << 16;  // fractions of a cycle for the rate of the DDR

// A queue in a ring that grows.
template <class T> class Ring {
 public:
  bool empty() const { return head_ == tail_; }
  std::size_t size() const { return tail_ - head_; }
  void push(const T& value) {
    if (size() == items_.size()) grow();
    items_[tail_++ & (items_.size() - 1)] = value;
  }
  T& front() { return items_[head_ & (items_.size() - 1)]; }
  const T& at(std::size_t i) const { return items_[(head_ + i) & (items_.size() - 1)]; }
  T pop() { return items_[head_++ & (items_.size() - 1)]; }

 private:
  void grow() {
    std::vector<T> wider(items_.empty() ? 64 : 2 * items_.size());
    const std::size_t held = size();
    for (std::size_t i = 0; i < held; ++i) wider[i] = items_[(head_ + i) & (items_.size() - 1)];
    items_.swap(wider);
    head_ = 0;
    tail_ = held;
  }
  std::vector<T> items_;
  std::size_t head_ = 0, tail_ = 0;
};

struct LoopInfo {
  std::string label;
  int ii = 1, depth = 1;
  std::int64_t iterations = 0, entries = 0;
};

// What a process can wait for: a stream, or an argument of the accelerator that points to memory.
struct Source {
  std::string path;
  int id = 0;
};

struct ProcessStats {
  std::string path;
  int id = 0;
  std::int64_t runs = 0;
  Time active = 0, working = 0, waited[CAUSES] = {0, 0, 0, 0};
  std::vector<std::pair<const Source*, Time>> waited_for[CAUSES];
  std::vector<Time> bins[BINS];
};

struct FifoStats : Source {
  std::size_t depth = 0;  // 0: no bound
  std::int64_t tokens = 0;
  std::size_t most = 0;
  Time empty = 0, full = 0;
  const ProcessStats* writer = nullptr;
  const ProcessStats* reader = nullptr;
};

struct Fiber;

// Beats that a port can serve at a time, from a time on; the last of a burst or not.
struct Chunk {
  Time from;
  int beats;
  bool last;
};

// What one process has asked a port for in one direction, and how far that has come; all in chunks.
struct Channel {
  bool write;
  int bytes;  // of a beat
  Ring<Chunk> asked;
  Ring<Time> ends;  // of bursts that were written
  std::int64_t served = 0, taken = 0;
  Time served_at[AHEAD] = {}, free_at[AHEAD] = {};  // the first beat of each, and when its place in the adapter is free again
  Fiber* waiter = nullptr;

  // From when on the next one can be served, as far as is known.
  Time ready() const {
    if (asked.empty() || (!write && served - taken >= AHEAD)) return NEVER;
    return std::max(asked.at(0).from, free_at[served % AHEAD]);
  }
  void take(Time now) { free_at[taken++ % AHEAD] = now; }
};

// One direction of a port of the board: channels that ask for something, in turn.
struct Lane {
  std::vector<Channel*> channels;
  Time free = 0, due = NEVER;  // when it looks for something to serve next
  std::int64_t beats = 0;
  std::vector<Time> bins;
};

struct BoardPort {
  std::string tag;
  Lane lanes[2];  // read, write

  std::unique_ptr<Channel> enter(bool write, int bytes) {
    std::unique_ptr<Channel> channel(new Channel);
    channel->write = write;
    channel->bytes = bytes;
    lanes[write].channels.push_back(channel.get());
    return channel;
  }
  void leave(Channel* channel) {
    std::vector<Channel*>& all = lanes[channel->write].channels;
    all.erase(std::find(all.begin(), all.end(), channel));
  }
};

// An argument of the accelerator that points to memory.
struct Interface : Source {
  BoardPort* port = nullptr;
};

class StreamBase;

// A write that has not left the pipeline; `due` is its time less the fiber's `shift`.
struct Pending {
  StreamBase* stream;
  Time due;
};

struct Fiber {
  void* context = nullptr;
  std::unique_ptr<char[]> stack;
  std::function<void()> body;
  ProcessStats* stats = nullptr;
  Fiber* parent = nullptr;
  Time now = 0, began = 0;
  Time shift = 0;  // by which a stall moves all that is in the pipeline
  int children = 0, id = 0;
  Time children_end = 0;
  bool done = false, first = false, waiting = false;
  LoopInfo* loop = nullptr;
  Ring<Pending> pending;
  // What it waits for, for the report of a deadlock.
  Cause cause = JOIN;
  StreamBase* on = nullptr;
};

struct Stage {
  int number;
  Time begin, end;
};

class Simulation {
 public:
  static Simulation& get() {
    static Simulation simulation;
    return simulation;
  }
  bool stalling = true;  // "stp"
  Time read_latency = 60, write_response = 30;
  Time ddr_cycles_per_byte = 0;  // in FIXED parts of a cycle; 0: no limit
  Time ddr_free = 0;
  std::map<std::string, LoopInfo> loops;
  std::map<std::string, std::size_t> depths;  // that replace those in the sources, by path
  bool unbounded = false;
  std::uint64_t dice = 0;  // of random stalls; 0: there are none
  std::map<std::string, std::unique_ptr<ProcessStats>> processes;
  std::map<std::string, std::unique_ptr<FifoStats>> fifos;
  std::map<std::string, std::unique_ptr<BoardPort>> ports;
  std::map<std::string, std::unique_ptr<Interface>> interfaces;
  std::map<std::string, std::string> wiring;
  std::vector<Stage> stages;
  std::FILE* trace = nullptr;
  Time trace_levels = 1, trace_waits = 1;  // cycles of which one level per stream is told; cycles from which a wait is
  Time bin = 0;  // cycles of a bin of the counts over time; 0: none
  Fiber* current = nullptr;
  Time end = 0;

  // Settings, a name and values per line: see Simulation::load in the sources of the settings' writer (attnc.verify.cosim).
  void load(const std::string& path) {
    std::FILE* const file = std::fopen(path.c_str(), "r");
    if (file == nullptr) die("cannot read " + path);
    std::string line;
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
      if (c != '\n') line += char(c);
      if (c == '\n') set(line, path);
      if (c == '\n') line.clear();
    }
    set(line, path);
    std::fclose(file);
  }
  void set(const std::string& line, const std::string& path) {
    std::size_t at = 0;
    const auto word = [&] {
      const std::size_t begin = std::min(line.find_first_not_of(' ', at), line.size());
      at = std::min(line.find(' ', begin), line.size());
      return line.substr(begin, at - begin);
    };
    const auto number = [&] { return std::strtoull(word().c_str(), nullptr, 10); };
    const std::string key = word();
    if (key == "style") {
      stalling = word() == "stp";
    } else if (key == "read_latency") {
      read_latency = Time(number());
    } else if (key == "write_response") {
      write_response = Time(number());
    } else if (key == "bytes_per_cycle") {
      const double rate = std::strtod(word().c_str(), nullptr);
      ddr_cycles_per_byte = rate > 0 ? Time(double(FIXED) / rate) : 0;
    } else if (key == "loop") {
      LoopInfo info;
      info.label = word();
      info.ii = int(number());
      info.depth = int(number());
      loops[info.label] = info;
    } else if (key == "fifo") {
      const std::string name = word();
      depths[name] = std::size_t(number());
    } else if (key == "stalls") {
      dice = (number() + 1) * 0x9E3779B97F4A7C15u;
    } else if (key == "unbounded") {
      unbounded = true;
    } else if (key == "port") {
      const std::string name = word();
      wiring[name] = word();
    } else if (key == "trace") {
      trace_levels = Time(number());
      trace_waits = Time(number());
      const std::string name = line.substr(std::min(at + 1, line.size()));
      trace = std::fopen(name.c_str(), "w");
      if (!trace) die("cannot write " + name);
    } else if (key == "bin") {
      bin = Time(number());
    } else if (!key.empty()) {
      die("unknown setting " + key + " in " + path);
    }
  }

  // A random number (xorshift64*, Vigna 2016), and what comes of it: cycles of a stall, mostly none, seldom many.
  std::uint32_t roll() {
    dice ^= dice >> 12;
    dice ^= dice << 25;
    dice ^= dice >> 27;
    return std::uint32_t((dice * 0x2545F4914F6CDD1Du) >> 32);
  }
  Time stall() {
    if (dice == 0) return 0;
    const std::uint32_t number = roll();
    return number % 16 ? 0 : 1 + (number >> 16) % (number % 512 ? 16 : 1024);
  }

  [[noreturn]] static void die(const std::string& message) {
    std::fprintf(stderr, "cosim: %s\n", message.c_str());
    std::fflush(nullptr);
    std::_Exit(2);
  }

  // By its function and label.
  LoopInfo& loop_info(const char* function, const char* label) {
    const auto found = loops.find(std::string(function) + "." + label);
    if (found == loops.end()) die(std::string("no II and depth are known for loop ") + label + " of " + function);
    return found->second;
  }

  // Runs `body` as the process that starts all others.
  void run(const std::function<void()>& body) {
    Fiber& root = make("top", body, nullptr, 0);
    ready(&root);
    while (!heap_.empty()) {
      const Entry entry = heap_.top();
      heap_.pop();
      if (entry.lane) {
        if (entry.now == entry.lane->due) serve(*entry.lane, entry.now);
        continue;
      }
      Fiber* next = current = entry.fiber;
      attnc_switch(&main_, next->context);
      current = nullptr;
      if (next->done) {
        end = std::max(end, next->now);
        free_.push_back(next);
      }
    }
    if (!root.done) deadlock();
  }

  inline Fiber& spawn(const char* name, const std::function<void()>& body);

  // The region of the current process ends when all that it started have.
  void join() {
    Fiber& f = *current;
    while (f.children > 0) wait(JOIN, nullptr);
    const Time ended = std::max(f.now, f.children_end + 1);
    count(f, JOIN, nullptr, ended - f.now);
    f.now = ended;
    f.children_end = 0;
  }

  // Gives way to all that are behind in time.
  void sync() {
    Fiber& f = *current;
    if (heap_.empty() || heap_.top().now > f.now) return;
    ready(&f);
    away(f);
  }

  void wait(Cause cause, StreamBase* on) {
    Fiber& f = *current;
    f.cause = cause;
    f.on = on;
    f.waiting = true;
    away(f);
  }
  void wake(Fiber* f) {
    if (f == nullptr || !f->waiting) return;
    f->waiting = false;
    ready(f);
  }
  // `cycles` of waiting from now on.
  void count(Fiber& f, Cause cause, const Source* source, Time cycles) {
    if (cycles <= 0) return;
    ProcessStats& p = *f.stats;
    p.waited[cause] += cycles;
    if (source) {
      auto& found = p.waited_for[cause];
      auto at = found.begin();
      while (at != found.end() && at->first != source) ++at;
      if (at == found.end()) at = found.insert(at, {source, 0});
      at->second += cycles;
    }
    if (bin) spread(p.bins[cause], f.now, f.now + cycles);
    if (trace && cycles >= trace_waits && cause != JOIN) told_wait(p, cause, source, f.now, f.now + cycles);
  }
  void told_wait(const ProcessStats& p, Cause cause, const Source* source, Time begin, Time end) {
    std::fprintf(trace, "W %d %s %d %lld %lld\n", p.id, cause_name(cause), source ? source->id : 0, (long long)begin, (long long)end);
  }
  // Adds the cycles from `begin` to `end` to the bins that they lie in.
  void spread(std::vector<Time>& bins, Time begin, Time end) {
    if (begin >= end) return;
    if (bins.size() <= std::size_t((end - 1) / bin)) bins.resize(std::size_t((end - 1) / bin) + 1);
    for (Time at = begin; at < end;) {
      const Time next = std::min(end, (at / bin + 1) * bin);
      bins[std::size_t(at / bin)] += next - at;
      at = next;
    }
  }

  std::string path_of(const char* name) const { return (current ? current->stats->path : std::string("top")) + "/" + name; }

  FifoStats* fifo(const std::string& path) {
    std::unique_ptr<FifoStats>& found = fifos[path];
    if (!found) {
      found.reset(new FifoStats);
      found->path = path;
      found->id = ++sources_;
      if (trace) std::fprintf(trace, "F %d %s\n", found->id, path.c_str());
    }
    return found.get();
  }

  Interface* interface(const char* name) {
    std::unique_ptr<Interface>& found = interfaces[name];
    if (!found) {
      found.reset(new Interface);
      found->path = name;
      found->id = ++sources_;
      if (trace) std::fprintf(trace, "M %d %s\n", found->id, name);
      const auto wired = wiring.find(name);
      const std::string tag = wired == wiring.end() ? std::string(name) : wired->second;
      std::unique_ptr<BoardPort>& port = ports[tag];
      if (!port) {
        port.reset(new BoardPort);
        port->tag = tag;
      }
      found->port = port.get();
    }
    return found.get();
  }

  // A channel of a lane has something new to serve, or room for it.
  void look(Lane& lane, const Channel& channel) {
    const Time ready = channel.ready();
    if (ready != NEVER) plan(lane, std::max(ready, lane.free));
  }
  void plan(Lane& lane, Time when) {
    if (when >= lane.due) return;
    lane.due = when;
    heap_.push({when, std::numeric_limits<int>::max(), nullptr, &lane});  // after what processes do at that time
  }

  void stage(int number) {
    if (!stages.empty() && stages.back().number == number) return;
    if (!stages.empty()) stages.back().end = current->now;
    stages.push_back({number, current->now, 0});
  }

  void report(const std::string& path) {
    std::FILE* out = std::fopen(path.c_str(), "w");
    if (!out) die("cannot write " + path);
    std::fprintf(out, "cycles %lld\n", (long long)end);
    write_stats(out);
    std::fclose(out);
    if (trace) std::fclose(trace);
  }

  // The next chunk of a lane, of the first in turn that is ready; or when to look again.
  void serve(Lane& lane, Time now) {
    lane.due = NEVER;
    Time next = NEVER;
    for (std::size_t i = 0; i < lane.channels.size(); ++i) {
      Channel& channel = *lane.channels[i];
      next = std::min(next, channel.ready());
      if (channel.ready() > now) continue;
      std::rotate(lane.channels.begin() + std::ptrdiff_t(i), lane.channels.begin() + std::ptrdiff_t(i) + 1, lane.channels.end());
      pass(lane, channel, now);
      plan(lane, lane.free);
      return;
    }
    if (next != NEVER) plan(lane, next);
  }
  void pass(Lane& lane, Channel& channel, Time now) {
    const Chunk chunk = channel.asked.pop();
    const Time start = std::max(now, (ddr_free + FIXED - 1) / FIXED);
    lane.free = start + chunk.beats;
    lane.beats += chunk.beats;
    if (bin) spread(lane.bins, start, lane.free);
    if (ddr_cycles_per_byte > 0) ddr_free = std::max(ddr_free, start * FIXED) + Time(chunk.beats) * channel.bytes * ddr_cycles_per_byte;
    channel.served_at[channel.served++ % AHEAD] = start;
    if (chunk.last) channel.ends.push(lane.free - 1);
    wake(channel.waiter);
  }

  inline void blocked(std::FILE* out, const Fiber& f, Cause cause, StreamBase& on, Time last);
  inline void write_stats(std::FILE* out);
  static inline void write_bins(std::FILE* out, const std::string& path, const char* name, const std::vector<Time>& bins);
  [[noreturn]] inline void deadlock();
  std::string report_path;

 private:
  struct Entry {
    Time now;
    int id;
    Fiber* fiber;
    Lane* lane;
    bool operator<(const Entry& other) const { return now != other.now ? now > other.now : id > other.id; }
  };

  static void enter() {
    Simulation& s = get();
    Fiber& f = *s.current;
    f.body();
    s.finish(f);
    attnc_switch(&f.context, s.main_);
  }

  inline void finish(Fiber& f);

  Fiber& make(const std::string& path, const std::function<void()>& body, Fiber* parent, Time now) {
    Fiber* f;
    if (free_.empty()) {
      fibers_.emplace_back(new Fiber);
      f = fibers_.back().get();
      f->stack.reset(new char[STACK]);
    } else {
      f = free_.back();
      free_.pop_back();
    }
    std::unique_ptr<ProcessStats>& stats = processes[path];
    if (!stats) {
      stats.reset(new ProcessStats);
      stats->path = path;
      stats->id = int(processes.size());
      if (trace) std::fprintf(trace, "N %d %s\n", stats->id, path.c_str());
    }
    f->body = body;
    f->stats = stats.get();
    f->parent = parent;
    f->now = f->began = now;
    f->children = 0;
    f->id = next_id_++;
    f->children_end = 0;
    f->done = f->first = f->waiting = false;
    f->loop = nullptr;
    f->shift = 0;
    ++f->stats->runs;
    f->context = prepared(f->stack.get(), STACK, &Simulation::enter);
    return *f;
  }
  void ready(Fiber* f) { heap_.push({f->now, f->id, f, nullptr}); }
  void away(Fiber& f) { attnc_switch(&f.context, main_); }

  void* main_ = nullptr;
  std::priority_queue<Entry> heap_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_;
  int next_id_ = 0, sources_ = 0;
};

// Time, bound and waiting of a stream; its values are kept by hls::stream.
class StreamBase {
 public:
  explicit StreamBase(const char* name) : stats_(Simulation::get().fifo(Simulation::get().path_of(name))) { bound(0); }
  StreamBase(const StreamBase&) = delete;
  StreamBase& operator=(const StreamBase&) = delete;
  ~StreamBase() { flush(true); }

  // The depth; one that the settings give for its path, or for its name wherever that is, replaces it.
  void bound(std::size_t depth) {
    Simulation& s = Simulation::get();
    auto given = s.depths.find(stats_->path);
    if (given == s.depths.end()) given = s.depths.find(stats_->path.substr(stats_->path.rfind('/') + 1));
    depth_ = s.unbounded ? 0 : given != s.depths.end() ? given->second : depth;
    stats_->depth = depth_;
    read_times_.assign(depth_ ? depth_ : 1, 0);
  }
  const FifoStats& stats() const { return *stats_; }

  // A write of the current process: at once outside a pipeline, else when it leaves the pipeline.
  void stage() {
    Simulation& s = Simulation::get();
    Fiber& f = *s.current;
    if (f.loop == nullptr || f.first) {  // a loop without iterations holds nothing back
      f.now += commit(f, f.now);
    } else {
      f.pending.push({this, f.now + f.loop->depth - 1 - f.shift});
    }
  }

  // Whether its token may be written now, as far as is known.
  bool room() const { return depth_ == 0 || written_ - read_ < std::int64_t(depth_); }

  // Waits for a place for a token that is due; returns the cycles that the pipeline stood for it.
  Time commit(Fiber& f, Time due) {
    Simulation& s = Simulation::get();
    stats_->writer = f.stats;
    while (!room()) {
      writer_ = &f;
      s.wait(FULL, this);
    }
    writer_ = nullptr;
    Time when = due;
    if (depth_ && written_ >= std::int64_t(depth_)) when = std::max(when, read_times_[std::size_t(written_ % std::int64_t(depth_))] + 1);
    when += s.stall();
    const Time stood = when - due;
    if (stood > 0) {
      stats_->full += stood;
      s.count(f, FULL, stats_, stood);
    }
    last_ = std::max(last_ + 1, when);
    available_.push(last_ + 1);
    ++written_;
    ++stats_->tokens;
    written_at_.push(when);
    flush(false);
    s.wake(reader_);
    return stood;
  }

  // Waits until the next token is there, and takes its place in time.
  void take() {
    Simulation& s = Simulation::get();
    Fiber& f = *s.current;
    while (available_.empty()) {
      stats_->reader = f.stats;
      // In a flushing pipeline what is inside goes on.
      if (!s.stalling && !f.pending.empty()) {
        StreamBase& next = *f.pending.front().stream;
        if (next.room()) {
          leave_first(f);
          continue;
        }
        next.writer_ = &f;
      }
      reader_ = &f;
      s.wait(EMPTY, this);
    }
    reader_ = nullptr;
    Time there = std::max(available_.pop(), f.now) + s.stall();
    // What leaves a flushing pipeline until then: if it waits for room, this read does too.
    while (!s.stalling && !f.pending.empty() && f.pending.front().due + f.shift <= there) {
      const Time due = f.pending.front().due + f.shift, stood = leave_first(f);
      if (stood > 0) there = std::max(there, due + stood);
    }
    if (there > f.now) {
      const Time stood = there - f.now;
      stats_->empty += stood;
      s.count(f, EMPTY, stats_, stood);
      f.now = there;
      if (s.stalling) f.shift += stood;
    }
    // What leaves a stalling one in the cycle of this read.
    if (s.stalling) leave(f, f.now + 1);
    stats_->reader = f.stats;
    if (depth_) read_times_[std::size_t(read_ % std::int64_t(depth_))] = f.now;
    ++read_;
    read_at_.push(f.now);
    flush(false);
    s.wake(writer_);
  }

  // Whether no token is there now.
  bool nothing() {
    Simulation& s = Simulation::get();
    Fiber& f = *s.current;
    if (available_.empty()) s.sync();
    if (s.dice != 0 && s.roll() % 4 == 0) return true;
    return available_.empty() || available_.front() > f.now;
  }

  // The first of what is in the pipeline leaves it; where it has to wait, the rest does with it.
  static Time leave_first(Fiber& f) {
    const Pending one = f.pending.pop();
    const Time stood = one.stream->commit(f, one.due + f.shift);
    f.now += stood;
    f.shift += stood;
    return stood;
  }

  // What left the pipeline before `until` does; a wait moves that time too.
  static void leave(Fiber& f, Time until) {
    const Time before = f.now;
    while (!f.pending.empty() && f.pending.front().due + f.shift < until + f.now - before) leave_first(f);
  }

  // All levels that are known.
  void tell() { flush(true); }

 private:
  // The level over time, from writes and reads in the order of their times as far as both are known.
  void flush(bool all) {
    while (all ? !written_at_.empty() || !read_at_.empty() : !written_at_.empty() && !read_at_.empty()) {
      if (read_at_.empty() || (!written_at_.empty() && written_at_.front() <= read_at_.front())) {
        const Time at = written_at_.pop();
        ++level_;
        stats_->most = std::max(stats_->most, level_);
        tell(at);
      } else {
        const Time at = read_at_.pop();
        --level_;
        tell(at);
      }
    }
    if (all) told();
  }

  // The level from `at` on, in the trace: the largest one of every so many cycles.
  void tell(Time at) {
    Simulation& s = Simulation::get();
    if (!s.trace) return;
    const Time start = at - at % s.trace_levels;
    if (start != told_at_) {
      told();
      told_at_ = start;
      told_level_ = 0;
    }
    told_level_ = s.trace_levels == 1 ? level_ : std::max(told_level_, level_);
  }
  void told() {
    Simulation& s = Simulation::get();
    if (s.trace && told_at_ >= 0) std::fprintf(s.trace, "L %d %lld %zu\n", stats_->id, (long long)told_at_, told_level_);
    told_at_ = -1;
  }

  FifoStats* stats_;
  std::size_t depth_ = 0, level_ = 0;
  std::int64_t written_ = 0, read_ = 0;
  Time last_ = -1, told_at_ = -1;
  std::size_t told_level_ = 0;
  std::vector<Time> read_times_;
  Ring<Time> available_, written_at_, read_at_;
  Fiber* reader_ = nullptr;
  Fiber* writer_ = nullptr;
};


inline void end_loop(Fiber& f) {
  if (f.loop == nullptr) return;
  while (!f.pending.empty()) StreamBase::leave_first(f);
  if (!f.first) f.now += f.loop->depth;
  f.now += 1;
  f.loop = nullptr;
  f.shift = 0;
}

inline Fiber& Simulation::spawn(const char* name, const std::function<void()>& body) {
  Fiber* parent = current;
  end_loop(*parent);
  ++parent->children;
  Fiber& child = make(parent->stats->path + "/" + name, body, parent, parent->now + 1);
  ready(&child);
  return child;
}

inline void Simulation::finish(Fiber& f) {
  end_loop(f);
  f.done = true;
  f.stats->active += f.now - f.began;
  if (bin) spread(f.stats->bins[ACTIVE], f.began, f.now);
  if (trace) std::fprintf(trace, "P %d %lld %lld\n", f.stats->id, (long long)f.began, (long long)f.now);
  f.body = nullptr;
  if (f.parent) {
    f.parent->children_end = std::max(f.parent->children_end, f.now);
    if (--f.parent->children == 0) wake(f.parent);
  }
}

inline void Simulation::write_stats(std::FILE* out) {
  if (!stages.empty()) stages.back().end = end;
  for (const Stage& s : stages) std::fprintf(out, "stage %d %lld %lld\n", s.number, (long long)s.begin, (long long)s.end);
  for (const auto& entry : processes) {
    const ProcessStats& p = *entry.second;
    std::fprintf(out, "process %s %lld %lld %lld", p.path.c_str(), (long long)p.runs, (long long)p.active, (long long)p.working);
    for (int c = 0; c < CAUSES; ++c) std::fprintf(out, " %lld", (long long)p.waited[c]);
    std::fprintf(out, "\n");
    for (int c = 0; c < CAUSES; ++c)
      for (const auto& on : p.waited_for[c])
        std::fprintf(out, "wait %s %s %s %lld\n", p.path.c_str(), cause_name(c), on.first->path.c_str(), (long long)on.second);
  }
  for (const auto& entry : fifos) {
    const FifoStats& f = *entry.second;
    std::fprintf(out, "fifo %s %zu %zu %lld %lld %lld\n", f.path.c_str(), f.depth, f.most, (long long)f.tokens, (long long)f.empty,
                 (long long)f.full);
    std::fprintf(out, "ends %s %s %s\n", f.path.c_str(), f.writer ? f.writer->path.c_str() : "-", f.reader ? f.reader->path.c_str() : "-");
  }
  for (const auto& entry : loops)
    if (entry.second.entries)
      std::fprintf(out, "loop %s %d %d %lld %lld\n", entry.first.c_str(), entry.second.ii, entry.second.depth,
                   (long long)entry.second.entries, (long long)entry.second.iterations);
  for (const auto& entry : ports)
    std::fprintf(out, "port %s %lld %lld\n", entry.first.c_str(), (long long)entry.second->lanes[0].beats,
                 (long long)entry.second->lanes[1].beats);
  if (!bin) return;
  for (const auto& entry : processes)
    for (int b = 0; b < BINS; ++b) write_bins(out, entry.first, bin_name(b), entry.second->bins[b]);
  for (const auto& entry : ports)
    for (int write = 0; write < 2; ++write) write_bins(out, entry.first, write ? "write" : "read", entry.second->lanes[write].bins);
}

inline void Simulation::write_bins(std::FILE* out, const std::string& path, const char* name, const std::vector<Time>& bins) {
  if (bins.empty()) return;
  std::fprintf(out, "bins %s %s", path.c_str(), name);
  for (const Time cycles : bins) std::fprintf(out, " %lld", (long long)cycles);
  std::fprintf(out, "\n");
}

inline void Simulation::blocked(std::FILE* out, const Fiber& f, Cause cause, StreamBase& on, Time last) {
  std::fprintf(out, "blocked %s %s %s %lld %s %zu\n", f.stats->path.c_str(), cause_name(cause), on.stats().path.c_str(), (long long)f.now,
               f.loop ? f.loop->label.c_str() : "-", on.stats().depth);
  if (!trace) return;
  told_wait(*f.stats, cause, &on.stats(), f.now, last);
  on.tell();
}

inline void Simulation::deadlock() {
  std::FILE* out = std::fopen(report_path.c_str(), "w");
  if (!out) die("cannot write " + report_path);
  Time last = end;  // of what has ended
  for (const auto& f : fibers_)
    if (!f->done) last = std::max(last, f->now);
  end = last;
  std::fprintf(out, "deadlock %lld\n", (long long)last);
  for (const auto& f : fibers_) {
    if (f->done) continue;
    if (trace) std::fprintf(trace, "P %d %lld %lld\n", f->stats->id, (long long)f->began, (long long)last);
    if (!f->waiting || f->on == nullptr) continue;
    blocked(out, *f, f->cause, *f->on, last);
    // What waits for room at the end of a flushing pipeline, and what a stalling one keeps.
    if (!stalling && f->cause == EMPTY && !f->pending.empty()) blocked(out, *f, FULL, *f->pending.at(0).stream, last);
    if (f->cause == EMPTY)
      for (std::size_t i = 0; i < f->pending.size(); ++i)
        std::fprintf(out, "held %s %s\n", f->stats->path.c_str(), f->pending.at(i).stream->stats().path.c_str());
  }
  write_stats(out);
  std::fclose(out);
  if (trace) std::fclose(trace);
  std::fprintf(stderr, "cosim: deadlock at cycle %lld\n", (long long)last);
  std::fflush(nullptr);
  std::_Exit(DEADLOCK);
}

// A pipelined loop of the current process.
class Loop {
 public:
  explicit Loop(LoopInfo& info) : info_(info) {
    Fiber& f = *Simulation::get().current;
    end_loop(f);
    f.loop = &info_;
    f.first = true;
    f.now += 1;
    ++info_.entries;
  }
  ~Loop() {
    Fiber& f = *Simulation::get().current;
    if (f.loop == &info_) end_loop(f);
  }
  void tick() {
    Fiber& f = *Simulation::get().current;
    ++info_.iterations;
    f.stats->working += info_.ii;
    if (!f.first) {
      f.now += info_.ii;
      // In a stalling pipeline what leaves now does so with what this iteration reads.
      StreamBase::leave(f, Simulation::get().stalling ? f.now : f.now + 1);
    }
    f.first = false;
    Simulation& s = Simulation::get();
    if (s.bin) s.spread(f.stats->bins[WORKING], f.now, f.now + info_.ii);
  }

 private:
  LoopInfo& info_;
};

class Region {
 public:
  ~Region() { Simulation::get().join(); }
};

// Waits of the current process for memory.
inline void stand(Time until, const Interface* interface) {
  Simulation& s = Simulation::get();
  Fiber& f = *s.current;
  until = std::max(until, f.now) + s.stall();
  if (until <= f.now) return;
  const Time stood = until - f.now;
  s.count(f, MEMORY, interface, stood);
  f.now = until;
  if (s.stalling) f.shift += stood;
}

// Waits until a channel is as `condition` says: its lane runs when all processes have come to that time.
template <class Condition> void await(Channel& channel, Condition condition) {
  Simulation& s = Simulation::get();
  while (!condition()) {
    channel.waiter = s.current;
    s.wait(MEMORY, nullptr);
  }
  channel.waiter = nullptr;
}

}  // namespace cosim
}  // namespace attnc

#define ATTNC_LOOP(label)                                                                                        \
  static ::attnc::cosim::LoopInfo& label##_info = ::attnc::cosim::Simulation::get().loop_info(__func__, #label); \
  ::attnc::cosim::Loop label##_time(label##_info);
#define ATTNC_TICK(label) label##_time.tick();
#define ATTNC_DEPTH(fifo, depth) fifo.bound(std::size_t(depth));
#define ATTNC_REGION ::attnc::cosim::Region attnc_region;
#define ATTNC_PROCESS(name, ...) ::attnc::cosim::Simulation::get().spawn(name, [&] { __VA_ARGS__; });
#define ATTNC_PORT(pointer) pointer.name(#pointer);
#define ATTNC_STAGE(number) ::attnc::cosim::Simulation::get().stage(number);
