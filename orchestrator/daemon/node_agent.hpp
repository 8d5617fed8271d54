// SPDX-License-Identifier: Apache-2.0
// The service behind weftd's faces: looks up, delegates, and puts views together.
//
// Reads (Get, List, Path, status) are answered from the cache and never wait for a slow store; only a Get of a name
// that the cache does not have looks into the store, because "no such volume" must be certain. Thread-safe; holds no
// lock of its own.
#pragma once

#include "orchestrator/api/service.hpp"
#include "orchestrator/daemon/drive_keeper.hpp"
#include "orchestrator/daemon/repair_desk.hpp"
#include "orchestrator/daemon/volume_catalog.hpp"
#include "orchestrator/daemon/volume_keeper.hpp"

namespace weft {

class node_agent final : public service {
public:
    struct environment {
        const daemon_options& options;
        cluster_cache& cache;
        volume_records& records;
        event_log& events;
        volume_keeper& volumes;
        volume_catalog& catalog;
        drive_keeper& drives;
        repair_desk& repairs;
    };
    explicit node_agent(environment around) : env_(around) {}

    status create_volume(const std::string& name, const volume_options& options) override;
    status remove_volume(const std::string& name) override;
    result<std::string> mount_volume(const std::string& name, const std::string& mount_id) override;
    void mount_answered(const std::string& name, const std::string& mount_id, bool delivered) override;
    status unmount_volume(const std::string& name, const std::string& mount_id) override;
    result<std::optional<volume_view>> get_volume(const std::string& name) override;
    result<std::vector<volume_view>> list_volumes() override;
    result<std::optional<volume_view>> inspect_volume(const std::string& name) override;
    void docker_activated() override;
    result<attachment_view> attach_volume(const std::string& name, bool force) override;
    status detach_volume(const std::string& name) override;
    result<restart_view> restart_volume(const std::string& name) override;
    result<repair_view> repair_volume(const std::string& name) override;
    result<repair_view> recover_volume(const std::string& name, const std::string& from,
                                       bool accept_data_loss) override;
    result<repair_view> forget_node(const std::string& name, bool force) override;
    result<volume_view> set_volume(const std::string& name, const volume_options& options) override;
    result<volume_view> scrub_volume(const std::string& name) override;
    result<volume_view> grow_volume(const std::string& name, const std::string& size) override;
    result<drive_view> add_drive(const std::string& path, const std::string& erase) override;
    status remove_drive(const std::string& id_or_path) override;
    result<std::vector<drive_view>> list_drives() override;
    result<std::vector<node_view>> list_nodes() override;
    result<status_view> cluster_status() override;
    result<std::vector<event_view>> list_events(std::size_t newest) override;

private:
    [[nodiscard]] volume_view view_of(const volume_record& record, const cluster_view& view, bool from_cache) const;
    [[nodiscard]] drive_view view_of(const drive_record& record, const cluster_view& view) const;
    [[nodiscard]] status known() const;

    const environment env_;
};

}  // namespace weft
