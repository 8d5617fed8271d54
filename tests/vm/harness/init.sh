#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the initramfs (busybox): the host's / read-only over 9p, a writable layer over it, then systemd.
#
# On the kernel's command line: weft.modules=DIR (has <version>/ in it) and weft.layer=DIR (a tree that is copied over
# the root), both paths of the host; weft.upper=SERIAL names a virtio disk with ext4 for the writable layer, without it
# the layer is a tmpfs and dies with the guest. Whatever fails ends the machine, and the harness shows the console.

give_up() {
    echo "weft-vm: $*" >/dev/console
    poweroff -f
}

mkdir -p /proc /sys /dev /host /upper /newroot
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

while read -r module; do
    insmod "/modules/$module" || give_up "cannot load $module"
done </modules/order

modules='' layer='' upper=''
# shellcheck disable=SC2013 # words are what is wanted
for word in $(cat /proc/cmdline); do
    case "$word" in
        weft.modules=*) modules="${word#*=}" ;;
        weft.layer=*) layer="${word#*=}" ;;
        weft.upper=*) upper="${word#*=}" ;;
    esac
done

mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro hostroot /host || give_up "no 9p root"

mount_upper() {
    for disk in /sys/block/vd*; do
        if [ "$(cat "$disk/serial")" = "$upper" ]; then
            mount -t ext4 "/dev/${disk##*/}" /upper
            return
        fi
    done
    return 1
}
if [ -n "$upper" ]; then
    mkdir -p /lib /sbin
    ln -s "/host$modules" /lib/modules
    ln -s /bin/modprobe /sbin/modprobe  # the kernel asks it for ext4's checksum
    for module in virtio_blk ext4; do
        modprobe "$module" || give_up "cannot load $module"
    done
    mount_upper || give_up "cannot mount the disk $upper"
else
    mount -t tmpfs -o mode=755 tmpfs /upper
fi
mkdir -p /upper/files /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /newroot || give_up "no overlay"

# With this file systemd believes that it runs in a container.
rm -f /newroot/.dockerenv
if [ ! -e /newroot/etc/weft-vm ]; then
    # What the host has enabled is no business of the guest: the layer enables what the guest is to run.
    for links in /newroot/etc/systemd/system/*.wants /newroot/etc/systemd/system/*.requires; do
        rm -rf "$links"
    done
    # Started by its socket when somebody talks to it.
    rm -f /newroot/usr/lib/systemd/system/multi-user.target.wants/dbus.service
    cp -a "/host$layer/." /newroot/ || give_up "cannot copy $layer"
    : >/newroot/etc/weft-vm  # last: a disk that has it has all of the layer
fi
mkdir -p /newroot/usr/lib/modules
mount -o bind "/host$modules" /newroot/usr/lib/modules || give_up "cannot mount $modules"

umount /proc
umount /sys
mount -o move /dev /newroot/dev
exec switch_root /newroot /lib/systemd/systemd
