// SPDX-License-Identifier: Apache-2.0
// Kernel nbd devices over the NBD exports of a unix socket: connect, find, hand new sockets over, grow, disconnect.
//
//   nbd.sock ── handshake (nbd_handshake.hpp) ── socket ──netlink──▶ /dev/nbdN, marked "weft:<scope>:<volume>:<extent>"
//
// No memory: every call looks at what the kernel has (nbd_sysfs.hpp) and makes the difference. A connected device
// belongs to no process: it stays when weftd is killed, and each command is made by the kernel whole or not at all,
// even for a caller that is killed inside of it. So whatever was interrupted is finished by calling again. Blocking;
// any thread; any number of processes: connects are serialised by a lock on /sys/module/nbd, which the kernel drops
// with its last holder, and that is after the last netlink call of a killed process.
//
// What the driver does, from its source (Linux 6.1.192, drivers/block/nbd.c; the functions are named). All of it was
// chosen for one sentence: the volume server may hold a request for as long as it likes (R4), and the driver neither
// gives it up nor sends it twice while that server lives.
//
// Time-outs: one connection per device, unless the caller knows better.
//   NBD_ATTR_TIMEOUT 0 does *not* switch the driver's timer off; it runs with 30 s (nbd_set_cmd_timeout). What happens
//   to a request that is unanswered then (nbd_xmit_timeout):
//     1 connection   its socket lives: one line in the kernel log ("Possible stuck request"), and another period
//     begins.
//                    Its socket was replaced: it is sent again over the new one.
//     2 or more      its socket is *shut down*, whether the server lives or not, and the request is sent again over
//     another.
//   With several connections a volume that holds for longer than the period loses one socket after the other. Worse:
//   the request that is sent again may overtake its first copy, which can still lie unread in the server's end of the
//   closed socket, and be applied after a later write of the same block. Any time-out that is long enough against that
//   would also be how long a crashed server's requests wait. So one connection is the default; more are for servers
//   that answer within the period or fail. One connection carries 128 requests at a time; more extents are more
//   devices. The period is /sys/block/nbdN/queue/io_timeout (`resend_after`): a request that was sent and not answered
//   when its server died is sent again not at the reconfigure but at the end of its period. Requests that came later
//   wait for the reconfigure only. Shorter: shorter pause after a crash, more log lines while a live server holds.
//
// A server dies: recv_work() sees the end, marks the socket dead (nbd_mark_nsock_dead) and says so on netlink
//   (nbd_watch.hpp). New requests find no live socket (find_fallback) and sleep in wait_for_reconnect() for at most
//   NBD_ATTR_DEAD_CONN_TIMEOUT seconds; without that attribute they fail at once. We say ten years. A sleeper is
//   uninterruptible: the kernel may log "blocked for more than 120 seconds" (hung_task), as it does for any device
//   that holds.
// Reconfigure: nbd_reconnect_socket() gives each new socket the place of a *dead* one. While all are alive a new one is
//   refused without an error; nbd_netlink.cpp tells the two apart. Size, mark and queues stay. The number of
//   connections cannot be changed later (nbd_start_device makes the queues).
// Disconnect: requests in flight and new ones fail with EIO (nbd_clear_que; NBD_RT_DISCONNECTED ends
// wait_for_reconnect).
//   The server gets NBD_CMD_DISC on every live socket (send_disconnects). The device becomes free when its last opener
//   has closed it (nbd_config_put); until then it cannot be revived. If a server is stopped while its socket is full,
//   sending NBD_CMD_DISC waits for it under the kernel's genl mutex, and every generic netlink user of the node waits,
//   too: end such a server first, its sockets close with it.
// Which index: without NBD_ATTR_INDEX the driver takes the first device without a configuration or makes a new one,
// under
//   its own lock (nbd_find_get_unused, nbd_dev_add), and tells us; an index of our own choosing could be taken
//   meanwhile (EBUSY). The module's nbds_max (16) is how many exist from the start, no limit. A device that somebody
//   merely opens (udev's probes) counts as used for that moment. Disconnect knows no mark, only an index: it is read a
//   moment before.
// Client flags: none. NBD_CFLAG_DISCONNECT_ON_CLOSE would end the device at mkfs's close;
// NBD_CFLAG_DESTROY_ON_DISCONNECT
//   would remove /dev/nbdN with every detach, and a connect could meet the index while it is "going down".
// Flush, FUA, trim (nbd_parse_flags, nbd_set_size, nbd_send_cmd): a write cache is announced if the server can flush,
// FUA
//   only together with it. Trim: discard_granularity = block size, up to 4 GiB at once. Zeroes are written as data
//   before Linux 6.11 (req_to_nbd_cmd_type knows no REQ_OP_WRITE_ZEROES): use discard where zeroes are wanted cheaply.
//   Every error of the server becomes EIO, ENOSPC too (nbd_handle_reply).
// Queue: 128 requests per connection; max_sectors_kb 128 may be raised up to 32768; one queue gets mq-deadline, "none"
// is
//   better (udev's business). Sizes are set before the first open: max_part (16) lets the first open read a partition
//   table, and so wait for a volume that holds; we load it with max_part=0.
// Memory: sockets are SOCK_MEMALLOC, sends and receives run with PF_MEMALLOC (__sock_xmit), the receiving queue is
//   WQ_MEM_RECLAIM. The driver may use the last pages; the server must care for itself (spawn_request::data_path).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/nbd_sysfs.hpp"

namespace weft {

/// How long a device without a live connection keeps its requests: as good as for ever. The driver multiplies it with
/// HZ (at most 1000) into a signed long.
inline constexpr std::chrono::seconds nbd_wait_for_ever{std::chrono::years{10}};
inline constexpr unsigned nbd_connections_max = 16;

struct nbd_spec {
    std::filesystem::path socket;  // the volume server's unix socket; below 108 bytes
    std::string export_name;
    std::string backend;            // encode_nbd_identity(): whose device it is
    unsigned connections = 1;       // 1..nbd_connections_max, read above why 1. Made fewer: 1 if the server has no
                                    // CAN_MULTI_CONN, and no more than there are processors (the rest would be idle)
    std::uint64_t bytes = 0;        // size of the export; 0: whatever the server says
    std::uint32_t block_bytes = 0;  // logical block size, a power of two in 512..4096; 0: what the server prefers
    bool read_only = false;         // also if the server allows writing
    std::chrono::seconds dead_connection = nbd_wait_for_ever;
    std::chrono::milliseconds resend_after{10000};       // see Time-outs; at least 1000: the timer's own grain
    std::chrono::milliseconds handshake_timeout{10000};  // per connection
};

struct nbd_attachment {
    nbd_device device;
    bool made = false;         // connected by this call; false: it was there already
    unsigned new_sockets = 0;  // how many dead connections of a device that was there got a new socket
};

/// Loads the module unless it is there (modprobe, which obeys /etc/modprobe.d), without partitions. Errors:
/// unavailable: this kernel has none, or the file system it is on is not there; says what to do.
status load_nbd_module();

/// A device over this export: the one that is there with this mark, its dead connections replaced, or a new one.
/// Idempotent. Errors: unavailable (no driver; no server), timed_out (server does not answer), unsupported (a kernel
/// before 5.14, an export that a kernel cannot use), invalid_argument, conflict (size or block size are not those of
/// the spec or of the device that is there), busy (the device was disconnected and is still held open; several devices
/// carry the mark), io_failed.
result<nbd_attachment> connect_nbd(const nbd_spec& spec);

/// Replaces the dead connections of a device, after the volume server was replaced. Harmless when there is none. The
/// export must be at least as large as the device. Errors: as connect_nbd; not_found when it is not connected any more.
result<nbd_attachment> reconfigure_nbd(const nbd_device& device, const nbd_spec& spec);

/// Makes the device larger. Its server must accept requests beyond the former size over the connections that are open
/// (nbdkit asks a plugin for the size once per connection, so there they must be new ones). Weft's volumes grow by new
/// extents, hence new devices; this is for the layouts that cannot. Errors: invalid_argument (smaller than now),
/// not_found, io_failed.
status grow_nbd(const nbd_device& device, std::uint64_t bytes);

/// Disconnects, and waits until the kernel has let the device go. Success when it is not connected with this mark (any
/// more). The wait is for the uevent that nbd_config_put() sends for the device when it takes the configuration down.
/// Errors: busy (still held open after `timeout`: everything on it fails now, and the last close frees it), timed_out
/// (see Disconnect above), unavailable, io_failed.
status disconnect_nbd(const nbd_device& device, std::chrono::milliseconds timeout);

}  // namespace weft
