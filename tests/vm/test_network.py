# SPDX-License-Identifier: Apache-2.0
"""Guests on a network of their own: they reach one another by name until they are cut, and nothing else."""
GUESTS = 2
PING = "busybox ping -c 2 -W 20"


def test_two_guests_reach_one_another(guests):
    one, two = guests
    one.run(f"{PING} n2")
    two.run(f"{PING} n1")


def test_a_guest_that_is_cut_is_not_reached_until_the_cut_is_healed(guests, network):
    one, two = guests
    network.cut(2)
    assert one.run("busybox ping -c 2 -W 2 n2", check=False).code == 1
    assert two.output("cat /sys/class/net/eth0/carrier") == "1"
    network.heal(2)
    one.wait_until("busybox ping -c 1 -W 5 n2", 60, "the other guest to answer again")


def test_a_guest_that_died_comes_back_to_the_same_address(guests):
    one, two = guests
    two.power_cut()
    assert one.run("busybox ping -c 2 -W 2 n2", check=False).code == 1
    two.start()
    one.wait_until("busybox ping -c 1 -W 5 n2", 60, "the other guest to answer again")
