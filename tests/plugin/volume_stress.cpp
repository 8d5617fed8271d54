// SPDX-License-Identifier: Apache-2.0
// A volume server in this process, driven by many threads, so that a sanitizer sees all of it (a plugin inside nbdkit
// would need the sanitizer's runtime preloaded). The replica servers are somebody else's; whoever starts this kills and
// restarts them meanwhile.
//
//   volume_stress ATTACH.JSON CONTROL.SOCK THREADS SEED
//
// It goes on until its standard input ends. Every thread owns every THREADS-th chunk of the volume and knows what is in
// it; each read is compared with that. Some requests go to one chunk that all threads change at the same time: nothing
// is known of its content, but replicas must not end up different. Any error of any request fails the run. Prints the
// number of requests; at the end everything is flushed and the server stopped while reads are still being made, which
// must end them all with ESHUTDOWN.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "nbd-backend/io/volume_server.hpp"

namespace {

using weft::block_bytes;
using weft::core::op_kind;
using weft::io::volume_server;
using weft::io::volume_window;

constexpr std::uint64_t chunk_blocks = 64;
constexpr std::uint64_t longest_blocks = 48;

std::atomic<std::uint64_t> requests{0};
std::atomic<bool> failed{false};
std::atomic<bool> over{false};      // no new changes
std::atomic<unsigned> reading{0};   // threads that have seen it
std::atomic<bool> stopping{false};  // ESHUTDOWN is what is expected now

void fail(const std::string& why) {
    if (!failed.exchange(true)) fmt::print(stderr, "volume_stress: {}\n", why);
}

class user {
public:
    user(volume_server& server, volume_window window, unsigned number, unsigned users, unsigned seed)
        : server_(server), window_(window), number_(number), random_(seed * 1000 + number) {
        const std::uint64_t chunks = window.size_bytes / (chunk_blocks * block_bytes);
        // Chunk 0 is everybody's.
        for (std::uint64_t c = 1 + number; c < chunks; c += users) chunks_.push_back(c);
        content_.resize(chunks_.size() * chunk_blocks);
        buffer_.resize(longest_blocks * block_bytes);
    }

    void run() {
        while (!over && !failed) step();
        // From here on only reads: a write that is stopped half-way may be on one replica and not on the other.
        ++reading;
        while (!failed && !ended_) submit(op_kind::read, pick(8), 1 + pick(4));
    }

private:
    std::uint64_t pick(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }

    int submit(op_kind kind, std::uint64_t block, std::uint64_t blocks, bool fua = false) {
        weft::core::request what;
        what.kind = kind;
        what.fua = fua;
        what.offset = block * block_bytes;
        what.length = static_cast<std::uint32_t>(blocks * block_bytes);
        what.data = buffer_.data();
        ++requests;
        const int error = server_.submit(waiter_, window_, what);
        if (error == ESHUTDOWN && stopping)
            ended_ = true;
        else if (error != 0)
            fail(fmt::format("thread {}: {} blocks at {}: {}", number_, blocks, block, std::strerror(error)));
        return error;
    }

    /// A request on a chunk of our own, checked.
    void step() {
        const std::uint64_t what = pick(100);
        if (what < 2) {
            submit(op_kind::flush, 0, 0);
        } else if (what < 8) {
            shared_step();
        } else {
            const std::uint64_t chunk = pick(chunks_.size());
            const std::uint64_t first = pick(chunk_blocks);
            const std::uint64_t blocks = 1 + pick(std::min(chunk_blocks - first, pick(8) == 0 ? longest_blocks : 2));
            const std::uint64_t at = chunks_[chunk] * chunk_blocks + first;
            std::uint64_t* const known = &content_[chunk * chunk_blocks + first];
            if (what < 45)
                read(at, blocks, known);
            else if (what < 90)
                write(at, blocks, known, what == 89);
            else if (submit(what < 95 ? op_kind::zero : op_kind::trim, at, blocks, what == 90) == 0)
                std::fill(known, known + blocks, 0);  // replica servers punch holes for both
        }
    }

    void shared_step() {
        const std::uint64_t first = pick(8);
        std::memset(buffer_.data(), static_cast<int>(number_), 4 * block_bytes);
        submit(pick(3) == 0 ? op_kind::read : op_kind::write, first, 1 + pick(4));
    }

    void read(std::uint64_t at, std::uint64_t blocks, const std::uint64_t* known) {
        std::memset(buffer_.data(), 0xee, blocks * block_bytes);
        if (submit(op_kind::read, at, blocks) != 0) return;
        for (std::uint64_t b = 0; b < blocks; ++b)
            for (std::uint64_t word = 0; word < block_bytes; word += sizeof(std::uint64_t)) {
                std::uint64_t found = 0;
                std::memcpy(&found, &buffer_[b * block_bytes + word], sizeof found);
                if (found == known[b]) continue;
                fail(fmt::format("thread {}: block {}+{}: found {}, wrote {}", number_, at + b, word, found, known[b]));
                return;
            }
    }

    void write(std::uint64_t at, std::uint64_t blocks, std::uint64_t* known, bool fua) {
        for (std::uint64_t b = 0; b < blocks; ++b) {
            known[b] = (std::uint64_t{number_} << 48) | ++serial_;
            for (std::uint64_t word = 0; word < block_bytes; word += sizeof(std::uint64_t))
                std::memcpy(&buffer_[b * block_bytes + word], &known[b], sizeof known[b]);
        }
        submit(op_kind::write, at, blocks, fua);
    }

    volume_server& server_;
    const volume_window window_;
    const unsigned number_;
    std::mt19937_64 random_;
    weft::io::request_waiter waiter_;
    std::vector<std::uint64_t> chunks_;
    std::vector<std::uint64_t> content_;
    std::vector<std::byte> buffer_;
    std::uint64_t serial_ = 0;
    bool ended_ = false;
};

int stress(const std::string& config_path, const std::string& control, unsigned threads, unsigned seed) {
    std::ifstream file(config_path);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    auto config = weft::core::decode_attach_config(text);
    if (config.has_error()) {
        fail(config.error().text);
        return 1;
    }
    volume_server server(std::move(*config));
    auto begun = server.listen(control);
    if (begun.has_value()) begun = server.start();
    if (begun.has_error()) {
        fail(begun.error().text);
        return 1;
    }
    const volume_window window = *server.find_export("");
    std::vector<std::unique_ptr<user>> users;
    std::vector<std::thread> running;
    for (unsigned n = 0; n < threads; ++n) users.push_back(std::make_unique<user>(server, window, n, threads, seed));
    for (const auto& one : users) running.emplace_back([&one] { one->run(); });
    pollfd input{STDIN_FILENO, POLLIN, 0};
    char byte = 0;
    while (!failed && (::poll(&input, 1, 50) == 0 || ::read(STDIN_FILENO, &byte, 1) > 0)) {
    }

    over = true;
    while (reading < threads && !failed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    weft::io::request_waiter waiter;
    weft::core::request flush;
    flush.kind = op_kind::flush;
    if (const int error = server.submit(waiter, window, flush); error != 0) fail("the last flush failed");
    fmt::print("{} requests\n", requests.load());
    std::fflush(stdout);
    stopping = true;
    server.stop();
    for (std::thread& one : running) one.join();
    return failed ? 1 : 0;
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) {
        fmt::print(stderr, "volume_stress ATTACH.JSON CONTROL.SOCK THREADS SEED\n");
        return 2;
    }
    return stress(words[1], words[2], static_cast<unsigned>(std::stoul(words[3])),
                  static_cast<unsigned>(std::stoul(words[4])));
}
