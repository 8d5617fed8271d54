// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/reconciler.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

namespace {

constexpr std::chrono::milliseconds tick{2000};        // between two plans when nothing is heard
constexpr std::chrono::milliseconds lease_look{1000};  // between two looks at the leases, which make no revision
constexpr std::chrono::seconds measure_pause{5};       // between two looks at the drives' free space
constexpr std::size_t threads_max = 16;                // actions at a time
// A turn of the watcher is a few calls of the store, each bounded by store_timeout, and a file written.
constexpr std::chrono::nanoseconds watcher_patience = 10 * store_timeout;

}  // namespace

reconciler::reconciler(environment around) : env_(around), tasks_(threads_max) {}

reconciler::~reconciler() {
    stop();
}

void reconciler::start() {
    watcher_turned_ns_ = monotonic_now().count();
    watcher_ = std::thread([this] { watch_store(); });
    planner_ = std::thread([this] { plan_forever(); });
}

void reconciler::stop() {
    stopping_ = true;
    env_.cluster.interrupt();
    env_.news.wake();
    if (watcher_.joinable()) watcher_.join();
    if (planner_.joinable()) planner_.join();
    tasks_.stop();
}

void reconciler::watch_store() {
    std::uint64_t seen = 0;
    while (!stopping_) {
        watcher_turned_ns_ = monotonic_now().count();
        const auto now = env_.cluster.wait_beyond(seen, lease_look);
        if (stopping_) return;
        const bool was_current = env_.cache.available().current;
        const bool news = !was_current || now.has_error() || *now > seen;
        const auto refreshed = news ? env_.cache.refresh() : env_.cache.refresh_leases();
        if (refreshed.has_error()) {
            if (troubles_.begins("store", refreshed.error().text))
                log(log_level::error, "store", "the cluster store does not answer; going on with the last copy",
                    {{"error", refreshed.error().text}});
            continue;
        }
        if (now.has_value()) seen = *now;
        if (troubles_.ends("store")) log(log_level::info, "store", "the cluster store answers");
        if (!news) continue;
        env_.news.wake();
        if (const auto saved = env_.cache.save(); saved.has_error() && troubles_.begins("copy", saved.error().text))
            log(log_level::warning, "store", "cannot write the copy of the records", {{"error", saved.error().text}});
    }
}

void reconciler::plan_forever() {
    while (!stopping_) {
        plan_once();
        env_.news.wait_for(std::min(tick, env_.drives.next_start().value_or(tick)));
    }
}

status reconciler::put_if_absent_or_changed(const std::string& key, const std::string& value, std::uint64_t revision) {
    store_commit change;
    change.expect = {{key, revision}};
    change.puts = {{key, value}};
    TRY_ASSIGN(const auto committed, env_.cluster.commit(change));
    env_.cache.put(key, value, committed);
    return ok();
}

void reconciler::enrol(const cluster_view& view) {
    if (!view.cluster && !view.bad.contains("cluster"))
        submit("enrol cluster", "cluster",
               [this] { return put_if_absent_or_changed("cluster", encode(cluster_record{make_uuid()}), 0); });
    const node_record mine{env_.options.node, env_.options.host, WEFT_VERSION};
    const auto known = view.nodes.find(mine.name);
    const std::uint64_t revision = known == view.nodes.end() ? 0 : known->second.revision;
    if ((revision == 0 || encode(known->second.record) != encode(mine)) && !view.bad.contains(node_key(mine.name)))
        submit("enrol node", "node " + mine.name.str(), [this, mine, revision] {
            return put_if_absent_or_changed(node_key(mine.name), encode(mine), revision);
        });
}

void reconciler::submit(std::string key, std::string subject, std::function<status()> task) {
    tasks_.submit(key, [this, key, subject = std::move(subject), task = std::move(task)] {
        const auto done = task();
        // No wake after a success: whatever was changed comes back as a revision of the store, and an action that found
        // nothing to do would otherwise be planned again at once, for ever.
        if (done.has_value()) {
            troubles_.ends(key);
            return;
        }
        const errc code = done.error().code;
        if (code == errc::conflict || code == errc::shutting_down) return;  // planned again, or not needed any more
        if (!troubles_.begins(key, done.error().text)) return;
        // What an outage of the store stops goes on by itself; it is told by the store's own trouble.
        if (code == errc::unavailable && !env_.cache.available().current) return;
        env_.events.emit(code == errc::busy || code == errc::timed_out ? severity::warning : severity::error, subject,
                         done.error().text);
    });
}

void reconciler::perform(const action& what) {
    log(log_level::debug, "reconcile", describe(what));
    if (const auto* a = std::get_if<start_server>(&what))
        submit("drive " + a->drive.id.str(), "drive " + a->drive.id.str(),
               [this, drive = a->drive] { return env_.drives.do_start(drive); });
    else if (const auto* b = std::get_if<stop_server>(&what))
        submit("drive " + b->drive.str(), "drive " + b->drive.str(),
               [this, id = b->drive] { return env_.drives.do_stop(id); });
    else if (const auto* c = std::get_if<create_replica>(&what))
        submit("replica " + c->replica.id.str(), "volume " + c->volume,
               [this, copy = *c] { return env_.drives.do_create(copy); });
    else if (const auto* d = std::get_if<delete_replica>(&what))
        submit("replica " + d->trash.id.str(), "volume " + d->trash.volume,
               [this, copy = *d] { return env_.drives.do_delete(copy); });
    else if (const auto* e = std::get_if<detach_unused>(&what))
        submit("volume " + e->id.str(), "volume " + e->volume,
               [this, id = e->id] { return env_.volumes.do_detach_unused(id); });
    else if (const auto* f = std::get_if<tear_down_fenced>(&what))
        submit("volume " + f->id.str(), "volume " + f->id.str(),
               [this, copy = *f] { return env_.volumes.do_tear_down(copy); });
    else if (const auto* g = std::get_if<tear_down_dead>(&what))
        submit("volume " + g->id.str(), "volume " + g->volume,
               [this, id = g->id] { return env_.volumes.do_detach_unused(id); });
    else if (const auto* i = std::get_if<replace_server>(&what))
        submit("volume " + i->id.str(), "volume " + i->volume,
               [this, copy = *i] { return env_.volumes.do_replace_server(copy); });
    else if (const auto* j = std::get_if<grow_device>(&what))
        submit("volume " + j->id.str(), "volume " + j->volume,
               [this, copy = *j] { return env_.volumes.do_grow(copy); });
    else if (const auto* k = std::get_if<follow_legs>(&what))
        submit("volume " + k->id.str(), "volume " + k->volume,
               [this, copy = *k] { return env_.volumes.do_follow_legs(copy); });
    else if (const auto* h = std::get_if<abandon_writer>(&what))
        submit("volume " + h->id.str(), "volume " + h->volume,
               [this, copy = *h] { return env_.volumes.do_abandon(copy); });
}

void reconciler::measure_drives(const cluster_view& view) {
    if (monotonic_now() - measured_at_ < measure_pause) return;
    measured_at_ = monotonic_now();
    for (const auto& [id, drive] : view.drives)
        if (drive.record.node == env_.options.node)
            submit("measure " + id.str(), "drive " + id.str(),
                   [this, record = drive.record] { return env_.drives.do_measure(record); });
}

std::vector<drive_id> reconciler::tend_devices(const cluster_view& view, bool current) {
    std::vector<drive_id> away;
    for (const auto& seen : env_.devices.observe(view)) {
        if (!is_usable(seen)) away.push_back(seen.id);
        const drive_record& drive = view.drives.at(seen.id).record;
        const auto plan = plan_drive(drive, seen);
        if (plan.step == drive_step::none) continue;
        submit("drive " + seen.id.str(), "drive " + seen.id.str(), [this, drive, plan]() -> status {
            switch (plan.step) {
                case drive_step::none: return ok();
                case drive_step::mount: return env_.drives.do_mount(drive, plan.device);
                case drive_step::release: return env_.drives.do_release(drive, plan);
                case drive_step::tell_missing: return env_.drives.do_tell_missing(drive, plan.why);
                case drive_step::tell_ambiguous: return error{errc::busy, plan.why};
            }
            return ok();
        });
    }
    if (!current) return away;
    const auto strays = env_.devices.strays(view);
    if (strays.has_error()) {
        if (troubles_.begins("strays", strays.error().text))
            log(log_level::warning, "drives", "cannot look for mounts that are left over",
                {{"error", strays.error().text}});
        return away;
    }
    troubles_.ends("strays");
    for (const auto& id : *strays)
        submit("drive " + id.str(), "drive " + id.str(), [this, id] { return env_.drives.do_release_stray(id); });
    return away;
}

void reconciler::tell_manager(const observed_node& observed) {
    if (monotonic_now() - std::chrono::nanoseconds{watcher_turned_ns_} > watcher_patience) return;
    env_.manager.alive(fmt::format("node {}: {} volumes attached, {} drives served{}", env_.options.node.str(),
                                   observed.attachments.size(), observed.serving.size(),
                                   observed.records_current ? "" : "; the cluster store does not answer"));
}

void reconciler::plan_once() {
    // The records first: an attachment that appears between the two looks is then newer than they are, which the plan
    // recognises by its epoch; the other way round it would seem to be missing.
    const auto view = env_.cache.view();
    observed_node observed;
    observed.me = env_.options.node;
    observed.records_current = env_.cache.available().current;
    observed.serving = env_.drives.settled();
    observed.away = tend_devices(*view, observed.records_current);
    observed.attachments = env_.volumes.observe();
    for (const auto& what : plan_actions(*view, observed)) perform(what);
    const auto hand_over = [this](std::string key, std::string subject, std::function<status()> task) {
        submit(std::move(key), std::move(subject), std::move(task));
    };
    env_.healing.look(*view, observed.records_current, hand_over);
    tell_manager(observed);
    if (!observed.records_current) return;
    env_.volumes.tell_members(*view);
    env_.watch.look(*view, hand_over);
    enrol(*view);
    measure_drives(*view);
}

}  // namespace weft
