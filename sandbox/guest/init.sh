#!/bin/busybox sh
# The first program of a machine: loads drivers, puts the root together, and hands over to the agent (sandbox/guest/machine.py).
# The kernel's command line says `polymath.NAME=VALUE`; it comes from the host alone.
b=/bin/busybox
$b mkdir -p /proc /dev /l/points/proc /l/points/dev /l/points/sys /l/points/.polymath /up /root
$b mount -t proc -o nosuid,nodev,noexec proc /proc
$b mount -t devtmpfs -o nosuid,noexec dev /dev
while read -r module; do $b insmod "$module"; done </modules
for word in $($b cat /proc/cmdline); do
  case $word in polymath.*) eval "${word#polymath.}" ;; esac
done
echo 1 >/proc/sys/vm/overcommit_memory # memory is refused where it is used, as in a container

lower=/l/points
i=0
for disk in $(echo "$disks" | $b tr , ' '); do
  $b mkdir /l/$i
  $b mount -t erofs -o ro,nosuid,nodev "/dev/$disk" /l/$i
  lower=/l/$i:$lower
  i=$((i + 1))
done
$b mount -t tmpfs -o "size=$disk_bytes,mode=700" writes /up
$b mkdir -m 755 /up/upper /up/work
$b mount -t overlay -o "lowerdir=$lower,upperdir=/up/upper,workdir=/up/work" root /root

$b mount -t tmpfs -o nosuid,nodev,size=8m,mode=711 polymath /root/.polymath
$b cp -r /agent/sandbox /agent/filter /root/.polymath/
$b mkdir -m 700 /root/.polymath/writes /root/.polymath/layers
$b mount --move /up /root/.polymath/writes
while [ $i -gt 0 ]; do
  i=$((i - 1))
  $b mkdir /root/.polymath/layers/$i
  $b mount --move /l/$i /root/.polymath/layers/$i
done
$b mount --move /dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=0620 devpts /root/dev/pts
$b mount -t tmpfs -o "nosuid,nodev,noexec,mode=1777,size=$disk_bytes" shm /root/dev/shm
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
  $b ln -s "${link#*:}" "/root/dev/${link%%:*}"
done
$b mount --move /proc /root/proc
$b mount -o bind /root/proc/sys /root/proc/sys
$b mount -o remount,bind,ro,nosuid,nodev,noexec /root/proc/sys /root/proc/sys
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec $b switch_root /root /usr/bin/env python3 -S -E -B -c \
  'import sys; sys.path.insert(0, "/.polymath"); from sandbox.guest.machine import main; main()' \
  /.polymath "$memory_bytes" "$num_pids" "$num_files" /dev/vport0p2 --stream /dev/vport0p1
