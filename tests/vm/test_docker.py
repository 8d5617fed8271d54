# SPDX-License-Identifier: Apache-2.0
"""A real Docker Engine under systemd in a guest."""
from harness import docker

GUEST = docker.arguments()


def test_docker_runs_a_container_with_a_volume_and_keeps_both_over_a_reboot(guest):
    assert guest.output("systemctl is-active docker.service") == "active"
    docker.import_busybox(guest)
    guest.run("docker run --rm --network none --volume kept:/data busybox sh -c 'echo mark >/data/file'", timeout=300)
    guest.reboot()
    read = guest.run("docker run --rm --network none --volume kept:/data busybox cat /data/file", timeout=300)
    assert read.stdout == "mark\n"
