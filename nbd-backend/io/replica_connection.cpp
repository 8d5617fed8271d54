// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_connection.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/core/engine_types.hpp"

namespace weft::io {

replica_connection::replica_connection(core::export_name name, std::shared_ptr<served_replica> replica,
                                       core::admission_gate::ticket ticket, std::function<void()> on_close)
    : name_(std::move(name)),
      replica_(std::move(replica)),
      ticket_(ticket),
      description_(render(replica_->describe(name_.is_writer() && ticket == 0))),
      on_close_(std::move(on_close)) {}

replica_connection::~replica_connection() {
    on_close_();
}

int data_connection::read(std::span<std::byte> buffer, std::uint64_t offset) noexcept {
    if (buffer.size() > core::max_request_bytes) return EINVAL;
    return admitted(effect::none, offset, buffer.size(),
                    [&]() noexcept { return replica().read(buffer, offset, is_writer()); });
}

int data_connection::write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept {
    if (buffer.size() > core::max_request_bytes) return EINVAL;
    return admitted(effect::change, offset, buffer.size(), [&]() noexcept {
        const int problem = replica().write(buffer, offset);
        return problem == 0 && fua ? replica().sync() : problem;
    });
}

int data_connection::zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept {
    return admitted(effect::change, offset, length, [&]() noexcept {
        const int problem = replica().zero(offset, length, only_if_fast);
        return problem == 0 && fua ? replica().sync() : problem;
    });
}

int data_connection::trim(std::uint64_t offset, std::uint64_t length, bool fua) noexcept {
    return zero(offset, length, fua, false);
}

int data_connection::flush() noexcept {
    return admitted(effect::sync, 0, 0, [&]() noexcept { return replica().sync(); });
}

int data_connection::extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) noexcept {
    return replica().file().extent_at(offset, end, found);
}

int map_connection::read(std::span<std::byte> buffer, std::uint64_t offset) noexcept {
    if (buffer.size() > core::max_request_bytes) return EINVAL;
    return admitted(effect::none, offset, buffer.size(), [&]() noexcept {
        file_extent found{offset, 0, false};
        for (std::uint64_t done = 0; done < buffer.size(); done += found.length) {
            (void)extent_at(offset + done, offset + buffer.size(), found);
            std::fill_n(buffer.begin() + static_cast<std::ptrdiff_t>(done), found.length,
                        found.hole ? std::byte{0} : std::byte{0xff});
        }
        return 0;
    });
}

int map_connection::write(std::span<const std::byte> buffer, std::uint64_t offset, bool) noexcept {
    return admitted(effect::none, offset, buffer.size(), []() noexcept { return EPERM; });
}

int map_connection::zero(std::uint64_t offset, std::uint64_t length, bool, bool) noexcept {
    return admitted(effect::none, offset, length, []() noexcept { return EPERM; });
}

int map_connection::trim(std::uint64_t offset, std::uint64_t length, bool fua) noexcept {
    return admitted(effect::clear, offset, length, [&]() noexcept {
        const int problem = replica().clear(replica().meta().map().covered_by(offset, length));
        return problem == 0 && fua ? replica().meta().sync() : problem;
    });
}

int map_connection::flush() noexcept {
    return admitted(effect::sync, 0, 0, [&]() noexcept { return replica().meta().sync(); });
}

int map_connection::extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) noexcept {
    const auto& map = replica().meta().map();
    const auto regions = map.touched_by(offset, end - offset);
    const bool dirty = map.is_dirty(regions.first);
    const auto run_end = std::min(end, map.run_end(regions.first, regions.end, dirty) * map.region_bytes());
    found = {offset, run_end - offset, !dirty};
    return 0;
}

}  // namespace weft::io
