// SPDX-License-Identifier: Apache-2.0
// The portable attach for real: nbdkit, nbdfuse, a loop device, ext4 and xfs. Needs root, /dev/fuse and loop devices.
//
// A program of its own, since it changes the machine: it works below a fresh directory in /tmp, touches only loop
// devices that it attached itself, and takes everything down again, also after a failed check. The volume server is
// nbdkit's memory plugin behind the log filter: the log shows which NBD commands the kernel's requests became.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>

#include "orchestrator/io/control_client.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/helper_process.hpp"
#include "orchestrator/io/portable_attach.hpp"
#include "orchestrator/io/replica_process.hpp"
#include "orchestrator/io/server_start.hpp"

using namespace weft;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

const volume_id volume{"3f0a2c1e-0000-4000-8000-0000000000aa"};
const std::string fs_uuid = "3f0a2c1e-0000-4000-8000-0000000000bb";

#define REQUIRE_OK(expression)                                 \
    do {                                                       \
        const auto outcome_ = (expression);                    \
        if (outcome_.has_error()) FAIL(outcome_.error().text); \
    } while (false)

/// A volume with a server; gone without a trace when the test is over.
struct bench {
    fs::path root, runtime, target;
    volume_paths paths;
    process_identity server;

    explicit bench(std::vector<std::string> server_arguments = {"--filter=log", "memory", "512M"}) {
        std::string name = "/tmp/weft-host-io-XXXXXX";
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        root = name;
        runtime = root / "run";
        target = root / "mounts" / volume.str();
        paths = paths_of(runtime, volume);
        REQUIRE_OK(make_directories(paths.directory));
        server_start start;
        start.name = "test server";
        start.pidfile = paths.server_pidfile;
        start.spawn.argv = {
            "nbdkit", "-f", "-t", "16", "-U", paths.nbd_socket.string(), "-P", paths.server_pidfile.string()};
        start.spawn.argv.insert(start.spawn.argv.end(), server_arguments.begin(), server_arguments.end());
        if (server_arguments.front() == "--filter=log") start.spawn.argv.push_back("logfile=" + nbd_log().string());
        start.spawn.identity_file = paths.server_identity;
        start.spawn.log_file = paths.server_log;
        auto started = start_server(start);
        if (started.has_error()) FAIL(started.error().text);
        server = *started;
    }
    bench(const bench&) = delete;
    bench& operator=(const bench&) = delete;
    ~bench() {
        ::kill(server.pid, SIGCONT);
        const bool alive = is_alive(server);
        auto down = teardown_portable(paths, options(!alive));
        CHECK_MESSAGE(down.has_value(), (down.has_error() ? down.error().text : ""));
        CHECK(kill_now(server).has_value());
        const auto removed = remove_volume_directory(runtime, volume);
        CHECK_MESSAGE(removed.has_value(), (removed.has_error() ? removed.error().text : ""));
        CHECK(remove_directory_tree(root).has_value());
    }

    [[nodiscard]] fs::path nbd_log() const { return root / "nbd.log"; }
    [[nodiscard]] teardown_options options(bool server_is_gone = false, std::chrono::milliseconds timeout = 20s) const {
        teardown_options what;
        what.mount_point = target;
        what.timeout = timeout;
        what.server_is_gone = server_is_gone;
        return what;
    }
    /// NBD commands so far whose line contains `word` ("Flush id", "Trim id").
    [[nodiscard]] int commands(std::string_view word) const {
        std::ifstream log{nbd_log()};
        int count = 0;
        for (std::string line; std::getline(log, line);)
            if (line.find(word) != std::string::npos && line.find(" ...") == line.size() - 4) ++count;
        return count;
    }
    std::string attach() const {
        auto device = attach_portable(paths, 10s);
        if (device.has_error()) FAIL(device.error().text);
        return *device;
    }
    /// Attached, formatted and mounted; returns the data directory.
    std::string mounted(fs_type fs = fs_type::ext4) const {
        const auto device = attach();
        auto made = ensure_filesystem(device, false, fs, fs_uuid);
        if (made.has_error()) FAIL(made.error().text);
        CHECK(*made == format_outcome::made);
        auto data = mount_filesystem(device, fs, target);
        if (data.has_error()) FAIL(data.error().text);
        return *data;
    }
};

void write_synced(const fs::path& file, std::string_view content) {
    const unique_fd fd{::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    REQUIRE(fd);
    REQUIRE(::write(fd.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()));
    REQUIRE(::fsync(fd.get()) == 0);
}

std::string read_text(const std::string& path) {
    return read_file(path)->value_or("(absent)");
}

/// A process that waits; in its own mount namespace on demand, or with a file open.
class waiting_child {
public:
    template <typename Prepare>
    explicit waiting_child(Prepare prepare) {
        std::array<int, 2> ready{}, stop{};
        REQUIRE(::pipe2(ready.data(), O_CLOEXEC) == 0);
        REQUIRE(::pipe2(stop.data(), O_CLOEXEC) == 0);
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            ::close(stop[1]);
            char byte = prepare() ? 'y' : 'n';
            if (::write(ready[1], &byte, 1) != 1) ::_exit(1);
            [[maybe_unused]] const auto n = ::read(stop[0], &byte, 1);  // until the test lets go or dies
            ::_exit(0);
        }
        ::close(ready[1]);
        ::close(stop[0]);
        stop_ = unique_fd{stop[1]};
        char byte = 'n';
        REQUIRE(::read(ready[0], &byte, 1) == 1);
        ::close(ready[0]);
        REQUIRE(byte == 'y');
    }
    ~waiting_child() { end(); }
    void end() {
        if (pid_ <= 0) return;
        stop_.reset();
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    [[nodiscard]] pid_t pid() const { return pid_; }

private:
    pid_t pid_ = 0;
    unique_fd stop_;
};

}  // namespace

TEST_CASE("portable attach: from server to mounted file system and back, twice, with the data still there") {
    const bench b;
    auto data = b.mounted();
    CHECK(data == (b.target / "data").string());
    struct stat st {};
    REQUIRE(::stat(data.c_str(), &st) == 0);
    CHECK((st.st_mode & 07777) == 0755);
    write_synced(fs::path{data} / "f", "hello");
    const auto state = observe_portable(b.paths);
    REQUIRE(state.has_value());
    CHECK(state->usable);
    CHECK(state->mount_points == std::vector<std::string>{b.target.string()});
    CHECK(b.attach() == state->loops.front().device);  // idempotent
    CHECK(*mount_filesystem(state->loops.front().device, fs_type::ext4, b.target) == data);

    REQUIRE_OK(teardown_portable(b.paths, b.options()));
    CHECK(observe_portable(b.paths)->nothing());
    REQUIRE_OK(teardown_portable(b.paths, b.options()));

    const auto device = b.attach();
    CHECK(*ensure_filesystem(device, true, fs_type::ext4, fs_uuid) == format_outcome::already);
    CHECK(*mount_filesystem(device, fs_type::ext4, b.target) == data);
    CHECK(read_text(data + "/f") == "hello");
}

TEST_CASE("portable attach: sectors of 4096 bytes, direct I/O, a write cache that is told to flush") {
    const bench b;
    const auto device = b.attach();
    const auto loops = find_loops(b.paths.fuse_file);
    REQUIRE(loops->size() == 1);
    CHECK(loops->front().device == device);
    CHECK(loops->front().direct_io);
    const std::string queue = fmt::format("/sys/block/loop{}/queue/", loops->front().number);
    CHECK(read_text(queue + "logical_block_size") == "4096\n");
    CHECK(read_text(queue + "write_cache") == "write back\n");
    CHECK(read_text(queue + "discard_max_bytes") != "0\n");
}

TEST_CASE("portable attach: fsync on the file system becomes an NBD flush, after the write that it covers") {
    const bench b;
    const auto data = b.mounted();
    for (int round = 0; round < 3; ++round) {
        const int flushes = b.commands(" Flush id");
        const int writes = b.commands(" Write id");
        write_synced(fs::path{data} / "f", fmt::format("round {}", round));
        CHECK(b.commands(" Write id") > writes);
        CHECK(b.commands(" Flush id") > flushes);
        // No write begins after the last flush unless it is covered by none of ours: the last command is the flush.
        const auto log = read_tail(b.nbd_log(), 0, 4000);
        CHECK(log.rfind(" Flush id") > log.rfind(" Write id"));
    }
}

TEST_CASE("portable attach: a flush that fails makes fsync fail") {
    const bench b{{"eval", "get_size=echo 1M", "can_write=exit 0", "can_flush=exit 0", "pread=head -c $3 /dev/zero",
                   "pwrite=cat >/dev/null", "flush=echo EIO no stable storage >&2; exit 1"}};
    const auto device = b.attach();
    const unique_fd fd{::open(device.c_str(), O_RDWR | O_CLOEXEC)};
    REQUIRE(fd);
    const std::string block(4096, 'x');
    REQUIRE(::pwrite(fd.get(), block.data(), block.size(), 8192) == 4096);
    CHECK(::fsync(fd.get()) != 0);
}

TEST_CASE("portable attach: a write that fails after the page cache took it makes fsync fail") {
    const std::string trigger = fmt::format("/tmp/weft-host-io-error-{}", ::getpid());
    const bench b{{"--filter=error", "memory", "512M", "error-pwrite-rate=100%", "error-file=" + trigger}};
    const auto device = b.attach();
    const unique_fd fd{::open(device.c_str(), O_RDWR | O_CLOEXEC)};
    REQUIRE(fd);
    const std::string block(4096, 'x');
    REQUIRE(::pwrite(fd.get(), block.data(), block.size(), 0) == 4096);
    CHECK(::fsync(fd.get()) == 0);  // the filter fails nothing before its file exists
    write_synced(trigger, "");
    CHECK(::pwrite(fd.get(), block.data(), block.size(), 8192) == 4096);  // into the page cache
    CHECK(::fsync(fd.get()) != 0);
    CHECK(remove_file(trigger).has_value());
}

TEST_CASE("portable attach: discarded space becomes NBD trims") {
    const bench b;
    const auto data = b.mounted();
    write_synced(fs::path{data} / "f", std::string(8 << 20, 'x'));
    REQUIRE_OK(remove_file(fs::path{data} / "f"));
    const unique_fd root{::open(b.target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    REQUIRE(::syncfs(root.get()) == 0);  // this file system only: sync(2) waits for every volume that holds
    const int trims = b.commands(" Trim id");
    REQUIRE_OK(run_checked({{"fstrim", b.target.string()}, 30s}));
    CHECK(b.commands(" Trim id") > trims);
}

TEST_CASE("format: mkfs sends no discards and leaves holes") {
    const bench b;
    const auto device = b.attach();
    REQUIRE_OK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid));
    CHECK(b.commands(" Trim id") == 0);
    const auto found = probe_device(device);
    REQUIRE(found.has_value());
    CHECK(found->type == "ext4");
    CHECK(found->uuid == fs_uuid);
}

TEST_CASE("format: xfs is made, mounted and recognised") {
    const bench b;
    const auto data = b.mounted(fs_type::xfs);
    write_synced(fs::path{data} / "f", "xfs");
    REQUIRE_OK(teardown_portable(b.paths, b.options()));
    const auto device = b.attach();
    CHECK(*ensure_filesystem(device, true, fs_type::xfs, fs_uuid) == format_outcome::already);
    CHECK(*mount_filesystem(device, fs_type::xfs, b.target) == data);
    CHECK(read_text(data + "/f") == "xfs");
}

TEST_CASE("format: what is there already is never formatted, and stays byte for byte") {
    const bench b;
    const auto device = b.attach();
    const std::string other = "3f0a2c1e-0000-4000-8000-0000000000cc";
    struct foreign {
        std::vector<std::string> make;
        const char* named;
    };
    const std::vector<foreign> things{
        {{"mkfs.ext4", "-q", "-F", "-U", other, device}, "'ext4'"},
        {{"mkfs.xfs", "-q", "-f", "-K", "-m", "uuid=" + other, device}, "'xfs'"},
        {{"mkswap", "-f", device}, "'swap'"},
    };
    for (const auto& thing : things) {
        REQUIRE_OK(run_checked({{"wipefs", "-a", "-q", device}, 30s}));
        REQUIRE_OK(run_checked({thing.make, 60s}));
        const auto before = run({{"sha256sum", device}, 60s});
        for (const bool formatted : {false, true}) {
            const auto outcome = ensure_filesystem(device, formatted, fs_type::ext4, fs_uuid);
            REQUIRE(outcome.has_error());
            CHECK(outcome.error().code == errc::corrupt);
            CHECK(outcome.error().text.find(thing.named) != std::string::npos);
        }
        CHECK(run({{"sha256sum", device}, 60s})->output == before->output);
    }
    REQUIRE_OK(run_checked({{"wipefs", "-a", "-q", device}, 30s}));
    CHECK(probe_device(device)->empty);
    CHECK(ensure_filesystem(device, true, fs_type::ext4, fs_uuid).error().code ==
          errc::corrupt);  // formatted, but gone
    CHECK(probe_device(device)->empty);
}

TEST_CASE("format: a partition table is something") {
    const bench b;
    const auto device = b.attach();
    std::array<unsigned char, 512> mbr{};
    mbr[446 + 4] = 0x83;  // one Linux partition
    mbr[446 + 8] = 8;     // from sector 8
    mbr[446 + 12] = 100;  // of 100 sectors
    mbr[510] = 0x55;
    mbr[511] = 0xaa;
    {
        const unique_fd fd{::open(device.c_str(), O_WRONLY | O_CLOEXEC)};
        REQUIRE(::write(fd.get(), mbr.data(), mbr.size()) == 512);
        REQUIRE(::fsync(fd.get()) == 0);
    }
    const auto outcome = ensure_filesystem(device, false, fs_type::ext4, fs_uuid);
    REQUIRE(outcome.has_error());
    CHECK(outcome.error().text.find("partition table (dos)") != std::string::npos);
}

TEST_CASE("format: our own unfinished mkfs is made again; the record decides what is ours") {
    const bench b;
    const auto device = b.attach();
    REQUIRE_OK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid));  // and then weftd was killed
    CHECK(*ensure_filesystem(device, false, fs_type::ext4, fs_uuid) == format_outcome::made);
    CHECK(*ensure_filesystem(device, true, fs_type::ext4, fs_uuid) == format_outcome::already);
}

TEST_CASE("format: a read error is an error, never nothing") {
    const bench b{{"--filter=error", "memory", "512M", "error-pread-rate=100%"}};
    const auto device = b.attach();
    CHECK(probe_device(device).error().code == errc::io_failed);
    CHECK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid).error().code == errc::io_failed);
}

TEST_CASE("format: a device that somebody has locked is left alone") {
    const bench b;
    const auto device = b.attach();
    const unique_fd fd{::open(device.c_str(), O_RDONLY | O_CLOEXEC)};
    REQUIRE(::flock(fd.get(), LOCK_EX) == 0);
    CHECK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid).error().code == errc::busy);
    CHECK(probe_device(device)->empty);
}

TEST_CASE("format: a helper whose server has ended is left behind, and the next one does it") {
    const bench b;
    const auto device = b.attach();
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const unique_fd ended{ends[0]};
    ::close(ends[1]);  // readable, as the pidfd of a process that has ended
    REQUIRE(::kill(b.server.pid, SIGSTOP) == 0);
    CHECK(ensure_filesystem_on_volume(device, false, fs_type::ext4, fs_uuid, 500ms, -1).error().code ==
          errc::timed_out);
    CHECK(ensure_filesystem_on_volume(device, false, fs_type::ext4, fs_uuid, 60s, ended.get()).error().code ==
          errc::unavailable);
    REQUIRE(::kill(b.server.pid, SIGCONT) == 0);
    const auto made = ensure_filesystem_on_volume(device, false, fs_type::ext4, fs_uuid, 60s, -1);
    REQUIRE_OK(made);
    CHECK(*made == format_outcome::made);
    CHECK(*ensure_filesystem_on_volume(device, true, fs_type::ext4, fs_uuid, 60s, -1) == format_outcome::already);
    const auto refused = ensure_filesystem_on_volume(device, true, fs_type::xfs, fs_uuid, 60s, -1);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::corrupt);
    CHECK(refused.error().text.find("nothing was touched") != std::string::npos);
}

TEST_CASE("format: a mkfs that outlives who started it keeps the lock of the device") {
    const bench b;
    const auto device = b.attach();
    const auto tools = b.root / "tools";
    REQUIRE_OK(make_directories(tools));
    const auto pidfile = (tools / "pid").string();
    {  // Its child is not killed with it, as a program that waits in the kernel is not.
        std::ofstream script{tools / "mkfs.ext4"};
        script << "#!/bin/sh\nexec 3<&0\nsleep 600 &\necho $! >" << pidfile << ".new\nmv " << pidfile << ".new "
               << pidfile << "\nwait\n";
    }
    fs::permissions(tools / "mkfs.ext4", fs::perms::owner_all);
    const pid_t caller = ::fork();
    if (caller == 0) {
        ::setenv("PATH", (tools.string() + ":" + ::getenv("PATH")).c_str(), 1);
        [[maybe_unused]] const auto ignored = ensure_filesystem(device, false, fs_type::ext4, fs_uuid);
        ::_exit(0);
    }
    while (!fs::exists(pidfile)) std::this_thread::yield();
    const auto straggler = static_cast<pid_t>(std::stol(**read_file(pidfile)));
    ::kill(caller, SIGKILL);
    ::waitpid(caller, nullptr, 0);
    CHECK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid).error().code == errc::busy);
    ::kill(straggler, SIGKILL);
    CHECK(*ensure_filesystem(device, false, fs_type::ext4, fs_uuid) == format_outcome::made);
}

TEST_CASE("teardown: an open file makes it busy, and nothing is taken down") {
    const bench b;
    const auto data = b.mounted();
    write_synced(fs::path{data} / "f", "still there");
    unique_fd open_file{::open((data + "/f").c_str(), O_RDONLY | O_CLOEXEC)};
    const auto busy = teardown_portable(b.paths, b.options());
    REQUIRE(busy.has_error());
    CHECK(busy.error().code == errc::busy);
    CHECK(observe_portable(b.paths)->usable);
    CHECK(read_text(data + "/f") == "still there");
    open_file.reset();
    REQUIRE_OK(teardown_portable(b.paths, b.options()));
}

TEST_CASE("teardown: another mount namespace that holds the file system is named, and nothing is taken down") {
    const bench b;
    const auto data = b.mounted();
    waiting_child holder{
        [] { return ::unshare(CLONE_NEWNS) == 0 && ::mount("", "/", "", MS_REC | MS_PRIVATE, "") == 0; }};
    const auto device = observe_portable(b.paths)->loops.front();
    const auto holders = foreign_holders(device.numbers);
    REQUIRE(holders.has_value());
    REQUIRE(holders->size() == 1);
    CHECK(holders->front().pid == holder.pid());
    CHECK(holders->front().mount_point == b.target.string());
    const auto busy = teardown_portable(b.paths, b.options());
    REQUIRE(busy.has_error());
    CHECK(busy.error().code == errc::busy);
    CHECK(busy.error().text.find(fmt::format("pid {}", holder.pid())) != std::string::npos);
    CHECK(observe_portable(b.paths)->usable);
    CHECK(observe_portable(b.paths)->mount_points.size() == 1);
    // Even if it is unmounted here by force, the loop device stays until the last holder is gone.
    REQUIRE_OK(unmount_filesystem(b.target, 10s, true));
    CHECK(teardown_portable(b.paths, b.options(false, 300ms)).error().code == errc::busy);
    CHECK(observe_portable(b.paths)->nbdfuse.has_value());
    holder.end();
    REQUIRE_OK(teardown_portable(b.paths, b.options()));
}

TEST_CASE("teardown: an administrator's bind mount is not ours to unmount") {
    const bench b;
    const auto data = b.mounted();
    const auto elsewhere = b.root / "elsewhere";
    REQUIRE_OK(make_directories(elsewhere));
    REQUIRE(::mount(data.c_str(), elsewhere.c_str(), "", MS_BIND, "") == 0);
    const auto busy = teardown_portable(b.paths, b.options());
    REQUIRE(busy.has_error());
    CHECK(busy.error().text.find(elsewhere.string()) != std::string::npos);
    CHECK(observe_portable(b.paths)->mount_points.size() == 2);
    REQUIRE(::umount2(elsewhere.c_str(), 0) == 0);
}

TEST_CASE("teardown: goes on from wherever it was interrupted") {
    const bench b;
    for (int stage = 0; stage < 4; ++stage) {
        CAPTURE(stage);
        const auto device = b.attach();
        if (stage == 0) {
            REQUIRE_OK(ensure_filesystem(device, false, fs_type::ext4, fs_uuid));
            REQUIRE_OK(mount_filesystem(device, fs_type::ext4, b.target));
        }
        const auto state = observe_portable(b.paths);
        if (stage == 2) REQUIRE_OK(detach_loop(state->loops.front(), 5s));  // killed after the loop
        if (stage == 3) {                                                   // and after the fuse mount
            REQUIRE_OK(detach_loop(state->loops.front(), 5s));
            REQUIRE(::umount2(b.paths.fuse_directory.c_str(), 0) == 0);
        }
        REQUIRE_OK(teardown_portable(b.paths, b.options()));
        CHECK(observe_portable(b.paths)->nothing());
    }
}

TEST_CASE("attach: what is half there is completed or cleared") {
    const bench b;
    b.attach();
    auto state = observe_portable(b.paths);
    REQUIRE_OK(detach_loop(state->loops.front(), 5s));
    b.attach();  // nbdfuse was there, the loop is made anew
    CHECK(observe_portable(b.paths)->nbdfuse == state->nbdfuse);

    state = observe_portable(b.paths);
    REQUIRE_OK(detach_loop(state->loops.front(), 5s));
    REQUIRE_OK(kill_now(*state->nbdfuse));  // its mount stays, dead
    CHECK(observe_portable(b.paths)->fuse_mounted);
    b.attach();
    CHECK(observe_portable(b.paths)->usable);

    state = observe_portable(b.paths);
    REQUIRE_OK(kill_now(*state->nbdfuse));  // under a loop: that is for a teardown to decide
    CHECK(attach_portable(b.paths, 5s).error().code == errc::busy);
    REQUIRE_OK(teardown_portable(b.paths, b.options(true)));
    b.attach();
}

TEST_CASE("teardown: with the server dead it ends in time, mounted and dirty as it is") {
    bench b;
    const auto data = b.mounted();
    const unique_fd fd{::open((data + "/f").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)};
    const std::string dirty(1 << 20, 'x');
    REQUIRE(::write(fd.get(), dirty.data(), dirty.size()) == static_cast<ssize_t>(dirty.size()));
    REQUIRE_OK(kill_now(b.server));
    CHECK(::fsync(fd.get()) != 0);  // the application is told
    const_cast<unique_fd&>(fd).reset();
    REQUIRE_OK(teardown_portable(b.paths, b.options(true)));
    CHECK(observe_portable(b.paths)->nothing());
}

TEST_CASE("teardown: a nbdfuse that was asked to end by somebody left a loop that is still found") {
    const bench b;
    b.attach();
    const auto state = observe_portable(b.paths);
    REQUIRE_OK(terminate(*state->nbdfuse, 5s));  // unmounts lazily: the kernel now shows "/volume" as the backing file
    const auto after = observe_portable(b.paths);
    REQUIRE(after->loops.size() == 1);
    CHECK(after->loops.front().number == state->loops.front().number);
    REQUIRE_OK(teardown_portable(b.paths, b.options(true)));
    CHECK(observe_portable(b.paths)->nothing());
}

TEST_CASE("teardown: while the volume holds it times out, and later goes on") {
    const bench b;
    const auto data = b.mounted();
    {
        const unique_fd fd{::open((data + "/f").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)};
        const std::string dirty(1 << 20, 'x');
        REQUIRE(::write(fd.get(), dirty.data(), dirty.size()) == static_cast<ssize_t>(dirty.size()));
    }
    ::kill(b.server.pid, SIGSTOP);
    const auto before = std::chrono::steady_clock::now();
    const auto held = teardown_portable(b.paths, b.options(false, 500ms));
    REQUIRE(held.has_error());
    CHECK(held.error().code == errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - before < 5s);
    const auto again =
        teardown_portable(b.paths, b.options(false, 300ms));  // still held: says so again, breaks nothing
    REQUIRE(again.has_error());
    CHECK(observe_portable(b.paths)->nbdfuse.has_value());
    ::kill(b.server.pid, SIGCONT);
    REQUIRE_OK(teardown_portable(b.paths, b.options()));

    // Nothing that the application had written was lost.
    const auto device = b.attach();
    REQUIRE_OK(mount_filesystem(device, fs_type::ext4, b.target));
    CHECK(fs::file_size(data + "/f") == 1 << 20);
}

TEST_CASE("mount: what is mounted there already is named, a file called data is refused") {
    const bench b;
    const auto data = b.mounted();
    const auto device = observe_portable(b.paths)->loops.front().device;
    REQUIRE(::rmdir(data.c_str()) == 0);
    write_synced(data, "a file");
    CHECK(mount_filesystem(device, fs_type::ext4, b.target).error().code == errc::corrupt);
    REQUIRE_OK(remove_file(data));
    const auto occupied = b.root / "occupied";
    REQUIRE_OK(make_directories(occupied));
    REQUIRE(::mount("weft-test", occupied.c_str(), "tmpfs", 0, "size=4k") == 0);
    const auto refused = mount_filesystem(device, fs_type::ext4, occupied);
    REQUIRE(::umount2(occupied.c_str(), 0) == 0);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::busy);
    CHECK(refused.error().text.find("weft-test") != std::string::npos);
    CHECK(mount_filesystem(b.root, fs_type::ext4, b.target).error().code == errc::invalid_argument);
}

TEST_CASE("removal: a volume's directory stays while a process or a mount is in it") {
    const bench b;
    b.attach();
    CHECK(remove_volume_directory(b.runtime, volume).error().code == errc::busy);
    CHECK(fs::exists(b.paths.directory));
}

TEST_CASE("server start: the reason of an early death is in the error; one that is never ready is ended") {
    const bench b;
    server_start start;
    start.name = "bad server";
    start.pidfile = b.root / "bad.pid";
    start.spawn.argv = {"nbdkit", "-f",           "-P", start.pidfile.string(), "-U", (b.root / "bad.sock").string(),
                        "memory", "no-such-key=1"};
    start.spawn.identity_file = b.root / "bad.identity";
    start.spawn.log_file = b.root / "bad.log";
    const auto died = start_server(start);
    REQUIRE(died.has_error());
    CHECK(died.error().code == errc::unavailable);
    CHECK(died.error().text.find("no-such-key") != std::string::npos);
    start.spawn.argv = {"sleep", "60"};
    start.ready_timeout = 200ms;
    CHECK(start_server(start).error().code == errc::timed_out);
    CHECK_FALSE(*read_live_identity(start.spawn.identity_file));
}

TEST_CASE("replica server: starts, is found with its arguments, refuses a taken port, stops without a trace") {
    const bench b;
    const fs::path drive = b.root / "drive";
    REQUIRE_OK(make_directories(drive));
    // The smallest plugin that takes drive=; what matters here is the process around it.
    const fs::path plugin = b.root / "nbdkit-small-plugin.so";
    const fs::path source = b.root / "small.c";
    write_synced(source, R"(#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#include <string.h>
static int set(const char *k, const char *v) { (void) v; return strcmp(k, "drive") ? -1 : 0; }
static void *open_(int r) { (void) r; return NBDKIT_HANDLE_NOT_NEEDED; }
static int64_t size(void *h) { (void) h; return 4096; }
static int get(void *h, void *b, uint32_t n, uint64_t o, uint32_t f) { memset(b, 0, n); return 0; }
static struct nbdkit_plugin plugin = { .name = "small", .config = set, .open = open_, .get_size = size, .pread = get };
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
NBDKIT_REGISTER_PLUGIN(plugin)
)");
    REQUIRE_OK(run_checked({{"cc", "-DTHREAD_MODEL=NBDKIT_THREAD_MODEL_PARALLEL", "-w", "-fPIC", "-shared",
                             source.string(), "-o", plugin.string()},
                            60s}));
    replica_server_config config;
    config.runtime_dir = b.runtime;
    config.plugin = plugin;
    config.drive = drive_id{"3f0a2c1e-0000-4000-8000-0000000000dd"};
    config.drive_directory = drive;
    config.host = "127.0.0.9";
    config.port = 17480;
    auto started = start_replica_server(config);
    if (started.has_error()) FAIL(started.error().text);
    const auto found = find_replica_server(b.runtime, config.drive);
    REQUIRE((found.has_value() && *found));
    CHECK((*found)->process == *started);
    CHECK((*found)->host == config.host);
    CHECK((*found)->port == config.port);
    CHECK((*found)->drive_directory == drive);
    CHECK(*list_replica_directories(b.runtime) == std::vector<drive_id>{config.drive});
    CHECK(start_replica_server(config).error().code == errc::busy);

    auto second = config;
    second.drive = drive_id{"3f0a2c1e-0000-4000-8000-0000000000ee"};
    const auto taken = start_replica_server(second);
    REQUIRE(taken.has_error());
    CHECK(taken.error().code == errc::busy);
    CHECK(taken.error().text.find("port 17480 of 127.0.0.9 is in use") != std::string::npos);
    CHECK(stop_replica_server(b.runtime, second.drive, 1s).has_value());
    REQUIRE_OK(stop_replica_server(b.runtime, config.drive, 5s));
    CHECK_FALSE(is_alive(*started));
    CHECK_FALSE(*find_replica_server(b.runtime, config.drive));
    CHECK(list_replica_directories(b.runtime)->empty());
}

int main(int argc, char** argv) {
    // As weftd does: the helpers are the same program.
    if (argc > 2 && std::string_view{argv[1]} == "--helper")
        return helper_main({{"format", format_helper}}, {argv + 2, argv + argc});
    if (::geteuid() != 0 || ::access("/dev/fuse", R_OK | W_OK) != 0 ||
        ::access("/dev/loop-control", R_OK | W_OK) != 0) {
        std::puts("skipped: needs root, /dev/fuse and /dev/loop-control");
        return 77;
    }
    doctest::Context context{argc, argv};
    return context.run();
}
