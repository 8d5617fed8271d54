// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/daemon.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "orchestrator/api/admin.hpp"
#include "orchestrator/api/docker_volume.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/daemon/node_agent.hpp"
#include "orchestrator/daemon/reconciler.hpp"
#include "orchestrator/daemon/store_door.hpp"
#include "orchestrator/io/service_manager.hpp"
#include "orchestrator/io/unit_start.hpp"
#include "orchestrator/io/unix_http.hpp"

namespace weft {

namespace {

// A weftd that was killed holds its locks until the kernel has taken it apart; whoever starts the next one at once (a
// supervisor, an impatient administrator) should not have to try twice. flock(2) has no timed wait, so it is asked
// anew.
constexpr int lock_attempts = 20;
constexpr std::chrono::milliseconds lock_pause{100};

bool lock_in_time(int file) {
    const stop_gate nobody_stops_us;
    for (int attempt = 0; attempt < lock_attempts; ++attempt) {
        if (flock(file, LOCK_EX | LOCK_NB) == 0) return true;
        if (errno != EWOULDBLOCK) return false;
        nobody_stops_us.wait_for(lock_pause);
        errno = EWOULDBLOCK;
    }
    return false;
}

/// The lock that only one weftd can hold; the kernel drops it with the process, however that ends.
result<unique_fd> lock_directory(const std::filesystem::path& directory) {
    const auto path = directory / "weftd.lock";
    unique_fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return errno_error(errno, "open " + path.native());
    if (!lock_in_time(file.get())) {
        if (errno == EWOULDBLOCK)
            return error{errc::busy, fmt::format("another weftd is using {}: each weftd needs a state-dir and a "
                                                 "runtime-dir of its own",
                                                 directory.native())};
        return errno_error(errno, "lock " + path.native());
    }
    return file;
}

/// Who we are to the store's leases: made once per state directory (lease_keeper.hpp says why).
result<std::string> lease_holder(const std::filesystem::path& state_dir) {
    const auto path = state_dir / "holder";
    TRY_ASSIGN(const auto text, read_file(path));
    if (text && is_uuid(text->substr(0, 36))) return text->substr(0, 36);
    std::string fresh = make_uuid();
    TRY(write_file_atomically(path, fresh + "\n"));
    return fresh;
}

sigset_t end_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    return signals;
}

/// All parts, in the order in which they need each other; destroyed in the reverse order.
class daemon {
public:
    daemon(const daemon_options& options, std::string holder, service_manager& manager)
        : options_(options),
          manager_(manager),
          cluster_(options.store_url, [this] { return cache_.cluster_id(); }),
          lease_connection_(options.store_url, [this] { return cache_.cluster_id(); }),
          cache_(cluster_, options.state_dir / "records.json"),
          records_(cluster_, cache_),
          events_(cluster_, options.node),
          table_(options.state_dir),
          lease_(
              lease_connection_, options.node.str(), std::move(holder), options.lease_ttl,
              [this](const std::string& trouble) { on_lease_trouble(trouble); }, [this] { tell_lease(); }),
          wake_([this] { wake_gate_.wake(); }),
          proposals_(records_, events_, options.node, wake_),
          volumes_({options_, cluster_, cache_, records_, events_, lease_, table_, proposals_, exits_, wake_}),
          maintenance_({options_, cluster_, cache_, records_, events_, lease_, table_, proposals_, exits_, wake_}),
          healer_({options_, records_, events_, lease_, maintenance_}),
          devices_(options_),
          drives_({options_, cluster_, cache_, records_, events_, exits_, devices_, wake_}),
          catalog_({options_, cluster_, cache_, records_, events_, volumes_, wake_}),
          repairs_({options_, cluster_, cache_, records_, events_, maintenance_, healer_, wake_}),
          agent_({options_, cache_, records_, events_, volumes_, catalog_, drives_, repairs_}),
          docker_(agent_),
          admin_(agent_),
          watch_({options_, records_, events_, table_}),
          reconciler_({options_, cluster_, cache_, events_, volumes_, drives_, healer_, watch_, devices_, wake_gate_,
                       manager_}) {}

    status start();
    void stop();
    status let_go(std::chrono::milliseconds patience);

private:
    status open_store_and_lease();
    status open_sockets();
    void on_lease_trouble(const std::string& trouble);
    void tell_lease();

    const daemon_options& options_;
    service_manager& manager_;
    store_door cluster_;
    store_door lease_connection_;
    cluster_cache cache_;
    volume_records records_;
    event_log events_;
    attachment_table table_;
    lease_keeper lease_;  // its thread uses the table
    wake_gate wake_gate_;
    const std::function<void()> wake_;
    proposal_desk proposals_;
    exit_watcher exits_;
    volume_keeper volumes_;
    volume_maintenance maintenance_;
    healer healer_;
    drive_devices devices_;
    drive_keeper drives_;
    volume_catalog catalog_;
    repair_desk repairs_;
    node_agent agent_;
    docker_volume docker_;
    admin admin_;
    volume_watch watch_;
    reconciler reconciler_;
    std::unique_ptr<unix_http_server> docker_socket_;
    std::unique_ptr<unix_http_server> admin_socket_;
};

void daemon::on_lease_trouble(const std::string& trouble) {
    const std::string subject = "node " + options_.node.str();
    cache_.note_commit_trouble(trouble);
    if (trouble.empty())
        events_.emit(severity::info, subject, "its lease is renewed again");
    else
        events_.emit(severity::error, subject,
                     "cannot renew its lease; when it runs out, others may take its volumes over: " + trouble);
}

/// A volume server may answer reads from one replica alone for as long as the lease holds (engine.hpp, E7).
void daemon::tell_lease() {
    const auto held = lease_.current();
    for (const auto& of : table_.all())
        if (const auto link = of->current_link()) link->set_lease(held.tenure, held.until);
}

status daemon::open_store_and_lease() {
    if (const auto loaded = cache_.load(); loaded.has_error())
        log(log_level::warning, "store", "the copy of the records is not usable, going on without it",
            {{"error", loaded.error().text}});
    const bool member = !cache_.cluster_id().empty();
    auto renewed = lease_.renew();
    if (renewed.has_value()) return cache_.refresh();
    const errc code = renewed.error().code;
    if (code == errc::busy)
        return error{errc::busy,
                     fmt::format("node '{}' is alive elsewhere: {}. Every node needs a name of its own; if this one "
                                 "replaces it, wait until that lease has run out",
                                 options_.node.str(), renewed.error().text)};
    // A node that knows its cluster comes up without the store; a first start with a wrong store is a mistake to
    // report.
    if (!member && code != errc::unavailable && code != errc::timed_out) return renewed;
    log(log_level::error, "store", "the cluster store does not answer; starting all the same",
        {{"error", renewed.error().text}});
    return ok();
}

status daemon::open_sockets() {
    unix_http_options for_docker;
    for_docker.path = options_.plugin_socket();
    TRY_ASSIGN(for_docker.inherited, manager_.socket("docker-plugin", for_docker.path));
    TRY_ASSIGN(docker_socket_, unix_http_server::listen(
                                   for_docker, [this](const http_request& request) { return docker_.handle(request); },
                                   &docker_volume::refusal));
    unix_http_options for_admin;
    for_admin.path = options_.admin_socket();
    for_admin.mode = 0660;
    for_admin.group = "weft";
    TRY_ASSIGN(for_admin.inherited, manager_.socket("admin", for_admin.path));
    TRY_ASSIGN(admin_socket_,
               unix_http_server::listen(
                   for_admin, [this](const http_request& request) { return admin_.handle(request); }, &admin::refusal));
    return ok();
}

status daemon::start() {
    TRY(open_store_and_lease());
    lease_.start();
    drives_.adopt();
    volumes_.adopt();
    if (const auto watching = devices_.watch(wake_); watching.has_error())
        log(log_level::warning, "drives", "going on without the block devices' events",
            {{"error", watching.error().text}});
    TRY(open_sockets());
    reconciler_.start();
    manager_.ready(fmt::format("node {}: started", options_.node.str()));
    log(log_level::info, "weftd", "started",
        {{"version", WEFT_VERSION}, {"node", options_.node.str()}, {"docker-plugin", options_.docker_plugin}});
    return ok();
}

status daemon::let_go(std::chrono::milliseconds patience) {
    TRY(open_store_and_lease());
    lease_.start();
    volumes_.adopt();
    return volumes_.take_all_down(patience);
}

void daemon::stop() {
    manager_.stopping();
    volumes_.give_up();
    cache_.stop_waiting();
    if (docker_socket_) docker_socket_->stop();
    if (admin_socket_) admin_socket_->stop();
    reconciler_.stop();
    devices_.stop_watching();
    // From here on nobody calls back: what the callbacks use may be destroyed.
    volumes_.let_go();
    drives_.let_go();
    log(log_level::info, "weftd", "stopped; what is attached stays attached", {{"node", options_.node.str()}});
}

}  // namespace

namespace {

// The units name this directory (systemd/README.md).
constexpr std::string_view runtime_dir_of_units = "/run/weft";

/// Before any server is looked at.
status choose_supervisor(const daemon_options& options) {
    const bool fits = service_manager::runs_us() && options.runtime_dir == runtime_dir_of_units;
    if (options.supervisor == supervision::none || (options.supervisor == supervision::automatic && !fits)) return ok();
    start_servers_as_units();
    if (auto settled = stop_unfinished_starts(); settled.has_error())
        return settled.error().within("supervisor: servers are units of systemd");
    return ok();
}

/// What every life of weftd begins with, and holds until its end.
struct prepared {
    service_manager manager;
    unique_fd state_lock, runtime_lock;
    std::string holder;
};

result<prepared> prepare(const daemon_options& options) {
    TRY_ASSIGN(service_manager manager, service_manager::take());
    TRY(make_directories(options.state_dir / "volumes"));
    TRY(make_directories(options.state_dir / "mounts"));
    TRY(make_directories(options.runtime_dir / "volumes"));
    TRY(make_directories(options.runtime_dir / "drives"));
    TRY_ASSIGN(auto state_lock, lock_directory(options.state_dir));
    TRY_ASSIGN(auto runtime_lock, lock_directory(options.runtime_dir));
    TRY(choose_supervisor(options));
    TRY_ASSIGN(auto holder, lease_holder(options.state_dir));
    return prepared{std::move(manager), std::move(state_lock), std::move(runtime_lock), std::move(holder)};
}

}  // namespace

status let_go_of_volumes(const daemon_options& options, std::chrono::milliseconds patience) {
    set_log_level(options.level);
    signal(SIGPIPE, SIG_IGN);
    TRY_ASSIGN(auto mine, prepare(options));
    daemon parts(options, mine.holder, mine.manager);
    auto gone = parts.let_go(patience);
    parts.stop();
    return gone;
}

status run_daemon(const daemon_options& options) {
    set_log_level(options.level);
    // Before any thread exists: every thread inherits the mask, and only the wait below takes these signals.
    const sigset_t signals = end_signals();
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal(SIGPIPE, SIG_IGN);
    TRY_ASSIGN(auto mine, prepare(options));

    daemon parts(options, mine.holder, mine.manager);
    auto started = parts.start();
    if (started.has_value()) {
        int received = 0;
        sigwait(&signals, &received);
        log(log_level::info, "weftd", "stopping", {{"signal", fmt::format("{}", received)}});
    }
    parts.stop();
    return started;
}

}  // namespace weft
