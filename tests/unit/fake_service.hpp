// SPDX-License-Identifier: Apache-2.0
// A service for the tests of the faces: volumes, drives and nodes in memory, every call written down, errors on demand,
// and calls that wait until the test lets them go. Thread-safe like the real one.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "orchestrator/api/service.hpp"

namespace weft::testing {

/// A volume of 10 GiB with replicas on n1 and n2, written by n1, healthy, with a working engine.
volume_view sample_volume(const std::string& name);
/// The same while the replica on n2 is being filled: 4.2 GiB of 10 GiB done.
volume_view sample_resync(const std::string& name);
std::vector<drive_view> sample_drives();
std::vector<node_view> sample_nodes();
status_view sample_status();
std::vector<event_view> sample_events();

class fake_service : public service {
public:
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

    std::map<std::string, volume_view> volumes;
    std::map<std::string, error> failures;  // by the call's name as in `calls`, "create", "get", …

    /// "mount db 0123", in order.
    std::vector<std::string> calls();
    /// Makes every mount wait until let_go.
    void hold_mounts();
    void let_go();
    /// Blocks until this many mounts wait.
    void await_held(std::size_t count);

private:
    status note(const std::string& call, const std::string& arguments);

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::string> calls_;
    bool holding_ = false;
    std::size_t held_ = 0;
};

}  // namespace weft::testing
