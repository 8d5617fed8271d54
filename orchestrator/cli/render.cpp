// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/render.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <vector>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/cli/fields.hpp"
#include "orchestrator/core/option_values.hpp"

namespace weft::cli {

namespace json = boost::json;

namespace {

constexpr std::size_t bar_columns = 20;
constexpr std::size_t short_id = 8;  // characters of a UUID in tables; `drive rm` takes unique prefixes

tone tone_of(std::string_view state) {
    if (state == "healthy" || state == "up_to_date" || state == "serving" || state == "up") return tone::good;
    if (state == "failed" || state == "unavailable" || state == "down" || state == "error" || state == "fenced" ||
        state == "lost")
        return tone::bad;
    if (state == "info" || state == "detached") return tone::plain;
    return tone::warning;
}

cell plain(std::string text) {
    return {clean(text), tone::plain, false};
}
cell number(std::uint64_t value) {
    return {std::to_string(value), tone::plain, true};
}
cell size(std::uint64_t bytes) {
    return {render_size(bytes), tone::plain, true};
}
cell toned(const std::string& state) {
    return {clean(state), tone_of(state), false};
}
cell or_dash(const std::string& text) {
    return text.empty() ? cell{"-", tone::dim, false} : plain(text);
}

std::string address_of(const json::value& drive) {
    const std::string host = clean(text_of(drive, "host"));
    const bool v6 = host.find(':') != std::string::npos;
    return fmt::format("{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", number_of(drive, "port"));
}

/// Up-to-date replicas of the extent that has fewest, of those wanted: "1/2".
cell replica_count(const json::value& volume) {
    const std::uint64_t wanted = number_of(volume, "replicas_wanted");
    std::uint64_t fewest = wanted;
    for (const auto& extent : elements(member(volume, "extents"))) {
        std::uint64_t good = 0;
        for (const auto& replica : elements(member(extent, "replicas")))
            if (text_of(replica, "state") == "up_to_date") ++good;
        fewest = std::min(fewest, good);
    }
    return {fmt::format("{}/{}", fewest, wanted), fewest < wanted ? tone::warning : tone::plain, false};
}

cell drive_note(const json::value& drive) {
    const bool down = flag_of(drive, "down");
    std::vector<std::string> notes;
    if (flag_of(member(drive, "device"), "missing"))
        notes.emplace_back("missing");
    else if (down)
        notes.emplace_back("down");
    if (flag_of(drive, "draining")) notes.emplace_back("draining");
    if (const auto mark = number_of(drive, "filled_past_percent"); mark > 0)
        notes.push_back(fmt::format("over {} % full", mark));
    return {fmt::format("{}", fmt::join(notes, ", ")), down ? tone::bad : tone::warning, false};
}

/// What the hardware calls itself: "ST4000NM0035 ZC10ABCD".
std::string hardware_of(const json::value& drive) {
    const json::value& device = member(drive, "device");
    const std::string model = clean(text_of(device, "model")), serial = clean(text_of(device, "serial"));
    return model + (model.empty() || serial.empty() ? "" : " ") + serial;
}

cell short_writer(const json::value& volume) {
    const std::string writer = text_of(volume, "writer");
    if (flag_of(volume, "maintenance")) return {clean("(repair: " + writer + ")"), tone::dim, false};
    return or_dash(writer);
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
    return fmt::format(
        "{} %", whole == 0 ? 0 : static_cast<int>(100.0 * static_cast<double>(part) / static_cast<double>(whole)));
}

std::string rate_text(const resync_progress& progress) {
    std::string text = fmt::format("{:.1f} %", 100.0 * progress.part());
    if (progress.bytes_per_second) text += fmt::format("  {:.1f} MB/s", *progress.bytes_per_second / 1e6);
    if (progress.time_left) text += fmt::format("  {} left", render_duration(*progress.time_left));
    return text;
}

/// Indented lines below a title, drawn as a tree.
class tree {
public:
    explicit tree(const style& how) : how_(how) {}
    /// `last`: no sibling follows at this depth.
    void node(std::string_view text, bool last) {
        lines_ += prefix_ + (how_.unicode ? (last ? "└─ " : "├─ ") : (last ? "`- " : "|- ")) + std::string(text) + "\n";
    }
    void enter(bool last) { prefix_ += last ? "   " : how_.unicode ? "│  " : "|  "; }
    void leave() { prefix_.resize(prefix_.size() - (prefix_.ends_with("│  ") ? std::string_view("│  ").size() : 3)); }
    [[nodiscard]] const std::string& lines() const { return lines_; }

private:
    const style& how_;
    std::string prefix_, lines_;
};

std::string fact(const style& how, std::string_view name, std::string_view text) {
    return fmt::format("  {} {}\n", paint(how, tone::dim, fmt::format("{:<11}", name)), text);
}

std::string writer_text(const style& how, const json::value& volume) {
    const std::string writer = clean(text_of(volume, "writer"));
    if (writer.empty()) return "nobody";
    if (flag_of(volume, "maintenance")) return fmt::format("nobody; {} repairs it", writer);
    if (flag_of(volume, "writer_alive")) return fmt::format("{} ({})", writer, paint(how, tone::good, "alive"));
    return fmt::format("{} ({})", writer, paint(how, tone::bad, "its lease has expired"));
}

std::string engine_text(const style& how, const json::value& engine) {
    const std::string state = clean(text_of(engine, "state"));
    std::string text = fmt::format("engine {}", paint(how, tone_of(state), state));
    if (flag_of(engine, "holding"))
        text += ", " + paint(how, tone::bad,
                             fmt::format("holding for {}",
                                         render_duration(std::chrono::milliseconds(number_of(engine, "held_for_ms")))));
    else
        text += ", not holding";
    text += fmt::format(", longest hold {}",
                        render_duration(std::chrono::milliseconds(number_of(engine, "longest_hold_ms"))));
    text += fmt::format(", {} in flight", number_of(engine, "requests_in_flight"));
    text += fmt::format(", read {} in {}, written {} in {}", render_size(number_of(engine, "read_bytes")),
                        number_of(engine, "reads"), render_size(number_of(engine, "written_bytes")),
                        number_of(engine, "writes"));
    if (const auto left = number_of(engine, "recovery_left_bytes"); left > 0)
        text += fmt::format(", {} left to recover", render_size(left));
    if (flag_of(engine, "waiting_for_space")) text += ", " + paint(how, tone::bad, "waiting for space");
    return text;
}

/// Part of the scrub `serial` that the engines have done; nullopt where they do not run or have not begun it.
std::optional<double> scrub_part(const json::value& volume, std::uint64_t serial) {
    const auto& extents = elements(member(volume, "extents"));
    const auto& engines = elements(member(volume, "live_extents"));
    std::uint64_t done = 0, total = 0;
    bool begun = false;
    for (std::size_t i = 0; i < extents.size() && i < engines.size(); ++i) {
        const json::value& scrub = member(engines[i], "scrub");
        total += number_of(extents[i], "size_bytes");
        if (number_of(scrub, "serial") != serial) continue;
        begun = true;
        done += number_of(scrub, "done_bytes");
    }
    if (!begun || total == 0) return std::nullopt;
    return static_cast<double>(done) / static_cast<double>(total);
}

bool is_scrub_wanted(const json::value& volume) {
    return number_of(volume, "scrub_wanted") > number_of(volume, "scrub_finished");
}

std::string scrub_text(const json::value& volume) {
    const std::uint64_t wanted = number_of(volume, "scrub_wanted");
    if (is_scrub_wanted(volume)) {
        const auto part = scrub_part(volume, wanted);
        return part ? fmt::format("scrub {}: {:.1f} % compared", wanted, *part * 100)
                    : fmt::format("scrub {} is asked for", wanted);
    }
    if (wanted == 0) return "never";
    return fmt::format("{}: {}", clean(text_of(volume, "scrubbed_at")), clean(text_of(volume, "scrub_report")));
}

/// What a list says besides health: "waits for space", "scrub 42 %".
std::string volume_note(const json::value& volume) {
    std::vector<std::string> notes;
    bool waits = false;
    for (const auto& engine : elements(member(volume, "live_extents")))
        waits = waits || flag_of(engine, "waiting_for_space");
    if (waits) notes.emplace_back("waits for space");
    const auto& extents = elements(member(volume, "extents"));
    const auto& engines = elements(member(volume, "live_extents"));
    std::uint64_t done = 0, total = 0;
    for (std::size_t i = 0; i < extents.size() && i < engines.size(); ++i)
        for (const auto& slot : elements(member(engines[i], "slots")))
            if (flag_of(slot, "resyncing")) {
                done += number_of(slot, "resync_done_bytes");
                total += number_of(extents[i], "size_bytes");
            }
    if (total > 0) notes.push_back("resync " + percent(done, total));
    if (is_scrub_wanted(volume)) {
        const auto part = scrub_part(volume, number_of(volume, "scrub_wanted"));
        notes.push_back(part ? fmt::format("scrub {} %", static_cast<int>(*part * 100)) : "scrub asked for");
    }
    return fmt::format("{}", fmt::join(notes, ", "));
}

const json::value& find_by_id(const json::value& list, const std::string& id) {
    static const json::value nothing;
    for (const auto& one : elements(list))
        if (text_of(one, "id") == id) return one;
    return nothing;
}

std::string replica_text(const style& how, const json::value& replica, const json::value& drives,
                         const json::value& engine) {
    const std::string id = text_of(replica, "id");
    const std::string state = clean(text_of(replica, "state"));
    const std::string drive_id = text_of(replica, "drive");
    const json::value& drive = find_by_id(drives, drive_id);
    std::string text = fmt::format("replica {} on {}  {}", clean(id.substr(0, short_id)),
                                   clean(text_of(replica, "node")), paint(how, tone_of(state), state));
    text += fmt::format("  drive {}", clean(drive_id.substr(0, short_id)));
    if (drive.is_object()) text += fmt::format(" {} at {}", clean(drive_name(drive)), address_of(drive));
    if (!flag_of(replica, "created")) text += "  " + paint(how, tone::warning, "not yet created");
    const json::value& slot = find_by_id(member(engine, "slots"), id);
    if (flag_of(slot, "full")) text += "  " + paint(how, tone::bad, "its drive is full");
    if (slot.is_object() && !flag_of(slot, "link_up")) text += "  " + paint(how, tone::bad, "not connected");
    return text;
}

/// What a layer of the stack says of itself. Sizes where they may differ from what is above.
std::string layer_text(const style& how, const json::value& node) {
    const std::string layer = text_of(node, "layer"), type = clean(text_of(node, "type"));
    const std::string name = clean(text_of(node, "name")), number = clean(text_of(node, "number"));
    const std::string size = render_size(number_of(node, "size_bytes"));
    const std::string link = clean(text_of(node, "link"));
    const std::string device =
        fmt::format("{}{}{}{}{}", name, number.empty() ? "" : " ", number, link.empty() ? "" : ", ", link);
    const std::string suspended = flag_of(node, "suspended") ? ", " + paint(how, tone::warning, "suspended") : "";
    if (layer == "file_system") {
        std::vector<std::string> places;
        for (const auto& one : elements(member(node, "mount_points")))
            if (one.is_string()) places.push_back(clean(std::string_view(one.get_string())));
        return fmt::format("file system {} at {}", type, fmt::join(places, ", "));
    }
    if (layer == "crypt") return fmt::format("crypt {}, {}{}", device, type, suspended);
    if (layer == "volume") return fmt::format("volume {}, {}{}", device, size, suspended);
    if (layer == "segment") {
        std::string text = fmt::format("segment {}, {}, {}", number_of(node, "index"), size, type);
        if (const auto stripes = number_of(node, "stripes"); stripes > 0)
            text += fmt::format(" over {}, chunk {}", stripes, render_size(number_of(node, "chunk_bytes")));
        if (!device.empty()) text += " " + device;
        if (const std::string action = clean(text_of(node, "action")); !action.empty() && action != "idle")
            text += ", " + paint(how, tone::warning,
                                 action + " " + percent(number_of(node, "done_bytes"), number_of(node, "all_bytes")));
        return text + suspended;
    }
    if (layer == "leg") {
        const std::string condition = clean(text_of(node, "condition"));
        const tone shade = condition == "in_sync" ? tone::good : condition == "syncing" ? tone::warning : tone::bad;
        return fmt::format("leg {} {}", number_of(node, "index"), paint(how, shade, condition));
    }
    if (layer == "nbd" && member(node, "extent").is_null()) return device;
    if (layer == "nbd") return fmt::format("{}, extent {}, {}", device, number_of(node, "extent"), size);
    if (layer == "loop") return device;
    if (layer == "nbdfuse") return fmt::format("nbdfuse, process {}", number_of(node, "pid"));
    if (layer == "whole") return fmt::format("whole volume, {}, over {}", size, name);
    if (layer == "extent") return fmt::format("extent {}, {}", number_of(node, "extent"), size);
    return device.empty() ? std::string("unknown") : device;
}

class stack_painter {
public:
    stack_painter(const style& how, const json::value& volume, const json::value& drives, const progress_map& progress)
        : how_(how),
          engines_(elements(member(volume, "live_extents"))),
          drives_(drives),
          progress_(progress),
          shape_(how),
          volume_(volume) {}

    std::string draw(const json::value& stack) {
        const auto& seen = elements(member(stack, "tree"));
        const json::array tree = stack.is_object() ? seen : extents();
        for (std::size_t i = 0; i < tree.size(); ++i) draw_node(tree[i], i + 1 == tree.size(), nullptr);
        return shape_.lines();
    }

private:
    /// An older weftd tells no stack.
    [[nodiscard]] json::array extents() const {
        json::array all;
        for (const auto& one : elements(member(volume_, "extents"))) {
            json::array below;
            for (const auto& replica : elements(member(one, "replicas"))) {
                json::object shown = replica.is_object() ? replica.get_object() : json::object{};
                shown["layer"] = "replica";
                below.push_back(std::move(shown));
            }
            all.push_back(json::object{{"layer", "extent"},
                                       {"extent", all.size()},
                                       {"size_bytes", number_of(one, "size_bytes")},
                                       {"below", std::move(below)}});
        }
        return all;
    }

    /// `engine`: of the extent that this is a part of; null above the extents.
    void draw_node(const json::value& node, bool last, const json::value& engine) {
        if (text_of(node, "layer") == "replica") return draw_replica(node, last, engine);
        shape_.node(layer_text(how_, node), last);
        shape_.enter(last);
        const auto& below = elements(member(node, "below"));
        const std::size_t extent = number_of(node, "extent");
        const bool begins = engine.is_null() && !member(node, "extent").is_null() && extent < engines_.size();
        const json::value& its = begins ? engines_[extent] : engine;
        if (begins) shape_.node(engine_text(how_, its), below.empty());
        for (std::size_t i = 0; i < below.size(); ++i) draw_node(below[i], i + 1 == below.size(), its);
        shape_.leave();
    }

    void draw_replica(const json::value& replica, bool last, const json::value& engine) {
        shape_.node(replica_text(how_, replica, drives_, engine), last);
        const auto found = progress_.find(text_of(replica, "id"));
        if (found == progress_.end()) return;
        // On a line of its own, so that a narrow terminal shows it whole.
        shape_.enter(last);
        shape_.node(fmt::format("{} {}", paint(how_, tone::good, render_bar(how_, found->second.part(), bar_columns)),
                                rate_text(found->second)),
                    true);
        shape_.leave();
    }

    const style& how_;
    const json::array& engines_;
    const json::value& drives_;
    const progress_map& progress_;
    tree shape_;
    const json::value& volume_;
};

}  // namespace

std::string drive_name(const json::value& drive) {
    const std::string device = text_of(member(drive, "device"), "name");
    return device.empty() ? text_of(drive, "path") : device;
}

std::string render_policies(const json::value& volume) {
    const std::uint64_t rate = number_of(volume, "resync_rate_bytes");
    return fmt::format("{}{}, checksums {}, on-full {}, resync-rate {}, scrub-every {}, min-replicas {}",
                       flag_of(volume, "encrypt") ? "encrypted, " : "", clean(text_of(volume, "provisioning")),
                       flag_of(volume, "checksums") ? "on" : "off", clean(text_of(volume, "on_full")),
                       rate == 0 ? "0 (no limit)" : render_resync_rate(rate),
                       render_scrub_every(number_of(volume, "scrub_every_s")), number_of(volume, "min_replicas"));
}

std::string render_scrub_line(const json::value& volume) {
    const std::uint64_t wanted = number_of(volume, "scrub_wanted");
    const auto part = scrub_part(volume, wanted);
    return fmt::format("{}: scrub {}, {}\n", clean(text_of(volume, "name")), wanted,
                       part ? fmt::format("{} %", static_cast<int>(*part * 100)) : "not begun, or not known here");
}

std::string render_nodes(const style& how, const json::value& nodes) {
    std::vector<std::vector<cell>> rows;
    for (const auto& node : elements(nodes)) {
        const bool alive = flag_of(node, "alive");
        const auto lease = std::chrono::milliseconds(number_of(node, "lease_remaining_ms"));
        rows.push_back({plain(text_of(node, "name")),
                        toned(alive ? "up" : "down"),
                        {alive ? render_duration(lease) : "expired", tone::plain, true},
                        plain(text_of(node, "host")),
                        number(number_of(node, "drives")),
                        number(number_of(node, "volumes_attached")),
                        plain(text_of(node, "version"))});
    }
    return render_table(how, {"NODE", "STATE", "LEASE", "ADDRESS", "DRIVES", "ATTACHED", "VERSION"}, rows);
}

std::string render_drives(const style& how, const json::value& drives) {
    std::vector<std::vector<cell>> rows;
    for (const auto& drive : elements(drives)) {
        const std::uint64_t total = number_of(drive, "size_bytes"), spare = number_of(drive, "free_bytes");
        const bool serving = flag_of(drive, "serving");
        rows.push_back({plain(text_of(drive, "id").substr(0, short_id)),
                        plain(text_of(drive, "node")),
                        plain(drive_name(drive)),
                        size(total),
                        size(spare),
                        {percent(total - std::min(spare, total), total), tone::plain, true},
                        number(number_of(drive, "replicas")),
                        // Only the drive's own node knows whether it is served.
                        {serving ? "yes" : "-", serving ? tone::good : tone::dim, false},
                        drive_note(drive),
                        plain(address_of(drive)),
                        plain(hardware_of(drive))});
    }
    return render_table(
        how, {"DRIVE", "NODE", "PATH", "SIZE", "FREE", "USED", "REPLICAS", "SERVING", "NOTE", "ADDRESS", "MODEL"},
        rows);
}

std::string render_drive(const style& how, const json::value& drive) {
    const json::value& device = member(drive, "device");
    const std::uint64_t total = number_of(drive, "size_bytes"), spare = number_of(drive, "free_bytes");
    const cell note = drive_note(drive);
    std::string text = fmt::format("{} {}\n", paint(how, tone::heading, "drive " + clean(text_of(drive, "id"))),
                                   note.text.empty() ? paint(how, tone::good, "ok") : paint(how, note.as, note.text));
    text += fact(how, "node", fmt::format("{}, {}", clean(text_of(drive, "node")), address_of(drive)));
    if (device.is_object()) {
        const std::string hardware = hardware_of(drive);
        text += fact(how, "device",
                     fmt::format("{}, {}{}{}", clean(text_of(device, "name")),
                                 render_size(number_of(device, "size_bytes")), hardware.empty() ? "" : ", ", hardware));
        text += fact(how, "fs", fmt::format("xfs, UUID {}", clean(text_of(device, "filesystem"))));
    }
    text += fact(how, "directory", clean(text_of(drive, "path")));
    text += fact(how, "space", fmt::format("{} free of {}", render_size(spare), render_size(total)));
    text += fact(how, "replicas", fmt::format("{}", number_of(drive, "replicas")));
    return text + fact(how, "serving", flag_of(drive, "serving") ? "yes" : "-");
}

std::string render_volumes(const style& how, const json::value& volumes) {
    std::vector<std::vector<cell>> rows;
    for (const auto& volume : elements(volumes))
        rows.push_back({plain(text_of(volume, "name")),
                        size(number_of(volume, "size_bytes")),
                        toned(text_of(volume, "health")),
                        replica_count(volume),
                        short_writer(volume),
                        plain(text_of(volume, "fs")),
                        or_dash(text_of(volume, "mountpoint")),
                        {volume_note(volume), tone::warning, false}});
    return render_table(how, {"VOLUME", "SIZE", "HEALTH", "REPLICAS", "WRITER", "FS", "MOUNTPOINT", "NOTE"}, rows);
}

std::string render_events(const style& how, const json::value& events) {
    std::vector<std::vector<cell>> rows;
    for (const auto& event : elements(events))
        rows.push_back({plain(text_of(event, "time")), plain(text_of(event, "node")), toned(text_of(event, "severity")),
                        plain(text_of(event, "subject")), plain(text_of(event, "text"))});
    return render_table(how, {"TIME", "NODE", "SEVERITY", "SUBJECT", "TEXT"}, rows);
}

std::string render_status(const style& how, const json::value& cluster) {
    const std::uint64_t total = number_of(cluster, "pool_size_bytes"), spare = number_of(cluster, "pool_free_bytes");
    const std::uint64_t degraded = number_of(cluster, "volumes_degraded");
    std::string text = paint(how, tone::heading, "cluster " + clean(text_of(cluster, "cluster_id"))) + "\n";
    text += fact(how, "asked",
                 fmt::format("{}, weftd {}", clean(text_of(cluster, "node")), clean(text_of(cluster, "version"))));
    const bool store = flag_of(cluster, "store_available");
    text += fact(how, "store",
                 store ? paint(how, tone::good, "available")
                       : paint(how, tone::bad, "NOT available: " + clean(text_of(cluster, "store_problem"))));
    text += fact(how, "pool", fmt::format("{} free of {}", render_size(spare), render_size(total)));
    text +=
        fact(how, "volumes",
             fmt::format("{}, {} attached, {}", number_of(cluster, "volumes"), number_of(cluster, "volumes_attached"),
                         paint(how, degraded > 0 ? tone::warning : tone::good, fmt::format("{} degraded", degraded))));
    for (const auto& problem : elements(member(cluster, "problems")))
        if (problem.is_string())
            text += fact(how, "problem", paint(how, tone::warning, clean(std::string_view(problem.get_string()))));
    return text + "\n" + render_nodes(how, member(cluster, "nodes"));
}

std::string render_volume(const style& how, const json::value& volume, const json::value& drives,
                          const progress_map& progress) {
    const std::string health = clean(text_of(volume, "health"));
    std::string text = fmt::format("{} {}\n", paint(how, tone::heading, "volume " + clean(text_of(volume, "name"))),
                                   paint(how, tone_of(health), health));
    if (flag_of(volume, "from_cache"))
        text += fact(how, "note", paint(how, tone::warning, "the store does not answer: this is the last known state"));
    if (const std::string problem = clean(text_of(volume, "problem")); !problem.empty())
        text += fact(how, "problem", paint(how, tone::bad, problem));
    text += fact(how, "id", clean(text_of(volume, "id")));
    text += fact(how, "size",
                 fmt::format("{}, {}{}", render_size(number_of(volume, "size_bytes")), clean(text_of(volume, "fs")),
                             flag_of(volume, "formatted") ? "" : ", not yet formatted"));
    text += fact(how, "replicas",
                 fmt::format("{} wanted, writes need at least {}", number_of(volume, "replicas_wanted"),
                             number_of(volume, "min_replicas")));
    text += fact(how, "policies", render_policies(volume));
    text += fact(how, "scrub", scrub_text(volume));
    text += fact(how, "writer", fmt::format("{}, epoch {}", writer_text(how, volume), number_of(volume, "epoch")));
    if (text_of(volume, "writer").empty() && !flag_of(volume, "clean"))
        text += fact(how, "note", paint(how, tone::warning, "the last writer did not detach in order"));
    const std::string mountpoint = clean(text_of(volume, "mountpoint"));
    text += fact(how, "mountpoint", mountpoint.empty() ? "not mounted on this node" : mountpoint);
    text += fact(how, "created", clean(text_of(volume, "created_at")));

    const json::value& stack = member(volume, "stack");
    if (const std::string note = clean(text_of(stack, "note")); !note.empty())
        text += fact(how, "note", paint(how, tone::warning, note));
    return text + stack_painter(how, volume, drives, progress).draw(stack);
}

std::string render_repair(const json::value& repair, const std::string& subject) {
    std::string text;
    for (const auto& one : elements(member(repair, "done")))
        if (one.is_string()) text += fmt::format("{}: {}\n", subject, clean(std::string_view(one.get_string())));
    return text.empty() ? subject + ": nothing is missing\n" : text;
}

std::string render_progress_line(const json::value& volume, const progress_map& progress) {
    std::string line = fmt::format("{}: {}", clean(text_of(volume, "name")), clean(text_of(volume, "health")));
    for (const auto& extent : elements(member(volume, "extents")))
        for (const auto& replica : elements(member(extent, "replicas"))) {
            const std::string state = clean(text_of(replica, "state"));
            line += fmt::format(", {} {}", clean(text_of(replica, "node")), state);
            const auto found = progress.find(text_of(replica, "id"));
            if (found != progress.end()) line += " " + rate_text(found->second);
        }
    return line + "\n";
}

}  // namespace weft::cli
