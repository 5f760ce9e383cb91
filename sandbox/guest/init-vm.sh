#!/bin/busybox sh
# The first program of a full machine: loads drivers, mounts the root, adds the agent as a service, and hands over to systemd.
# The kernel's command line says `polymath.NAME=VALUE`; it comes from the host alone.
b=/bin/busybox
$b mkdir -p /proc /dev /root
$b mount -t proc -o nosuid,nodev,noexec proc /proc
$b mount -t devtmpfs -o nosuid,noexec dev /dev
while read -r module; do $b insmod "$module"; done </modules
for word in $($b cat /proc/cmdline); do
  case $word in polymath.*) eval "${word#polymath.}" ;; esac
done
echo 1 >/proc/sys/vm/overcommit_memory # memory is refused where it is used, as in a container

$b mount -t ext4 -o rw,nodev,noatime "/dev/$disks" /root
free=$(($($b stat -f -c '%a * %S' /root)))
[ $free -gt $disk_bytes ] && $b fallocate -l $((free - disk_bytes)) /root/.ballast && $b chmod 600 /root/.ballast

$b mount -t tmpfs -o nosuid,nodev,mode=755 run /root/run
$b mkdir -m 711 /root/run/polymath
$b cp -r /agent/sandbox /root/run/polymath/
units=/root/run/systemd/system
$b mkdir -p $units/multi-user.target.wants
$b cat >$units/polymath.service <<END
[Unit]
Description=Takes the commands of this machine's host
FailureAction=poweroff-force
SuccessAction=poweroff-force
[Service]
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/bin/env python3 -S -E -B -c 'import sys; sys.path.insert(0, "/run/polymath"); from sandbox.guest.machine import main; main()' /run/polymath $memory_bytes $num_pids $num_files /dev/vport0p2 --stream /dev/vport0p1
OOMScoreAdjust=-1000
END
$b ln -s ../polymath.service $units/multi-user.target.wants/polymath.service
for unit in systemd-logind.service systemd-timesyncd.service systemd-networkd.service systemd-resolved.service \
  systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service apt-daily.timer \
  apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer systemd-tmpfiles-clean.timer \
  getty.target systemd-udev-trigger.service systemd-udevd.service systemd-modules-load.service \
  systemd-journal-flush.service systemd-machine-id-commit.service systemd-hwdb-update.service \
  modprobe@configfs.service modprobe@dm_mod.service modprobe@efi_pstore.service modprobe@fuse.service \
  modprobe@loop.service modprobe@drm.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  kmod-static-nodes.service e2scrub_reap.service getty-static.service; do # what a machine for commands has no use for
  $b ln -s /dev/null $units/$unit
done
$b mkdir -p /root/run/systemd/system-generators # of units for disks, keys and terminals that it has not
for generator in /root/usr/lib/systemd/system-generators/*; do
  name=${generator##*/}
  [ "$name" = systemd-fstab-generator ] || $b ln -s /dev/null "/root/run/systemd/system-generators/$name"
done
$b mount --move /dev /root/dev
$b mount --move /proc /root/proc
exec $b switch_root /root /sbin/init
