# Run by tests/stock_kernel/stage.py on the other kernel, as root, with these variables set before it: checkout, stdlib,
# results, slow, and do=all|pytest|exec with arguments. Nothing that is written here outlives the guest but what is in
# $results; no module is loaded by hand but those of the disk: what labctl needs, its own requests must bring.
exec >"$results/output" 2>&1 </dev/null
finish() {
	echo "$1" >"$results/status.new"
	mv "$results/status.new" "$results/status"
	exit "$1"
}
cannot() {
	echo "tests/stock_kernel/guest.sh: $*"
	finish 3
}
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LANG=C.UTF-8
export PATH LANG

modprobe -a virtio_blk ext4 || cannot "no module for the disk"
mkdir -p /run/image && mount -t ext4 /dev/vda /run/image || cannot "the disk cannot be mounted"
mount --bind "$checkout/.cache" /run/image/checkout/.cache || cannot "the cache cannot be mounted"
mount --bind "$results" "/run/image/checkout/${results#"$checkout"/}" || cannot "the results cannot be mounted"

# An ordinary user must get to the checkout even if it is in root's home.
folder=/
rest=${checkout#/}
while [ "${rest#*/}" != "$rest" ]; do
	folder=$folder${rest%%/*}/
	rest=${rest#*/}
	case $(stat -c %A "$folder") in
	*x) ;;
	*)
		mount -t tmpfs -o mode=755 none "$folder" && mkdir -p "$checkout" || cannot "no way to $checkout"
		break
		;;
	esac
done
mount --rbind /run/image/checkout "$checkout" && mount --bind /run/image/stdlib "$stdlib" || cannot "no checkout"
mount -t tmpfs -o mode=1777 none /tmp || cannot "no /tmp"
python=$checkout/.venv/bin/python

# Programs that are run all the time, into memory: 9p caches nothing, so that each run would read them again.
mkdir -p /run/programs
for name in "$python" /bin/sh /usr/bin/env cc as ld $(cc -print-prog-name=cc1) $(cc -print-prog-name=collect2) \
	/lib64/ld-linux-x86-64.so.2 $(ldd "$python" "$(command -v cc)" 2>/dev/null | sed -n 's/.*=> \(.*\) (.*/\1/p' | sort -u); do
	path=$(command -v "$name") && path=$(readlink -f "$path") && [ -f "$path" ] || continue
	copy=/run/programs/$(echo "$path" | tr / _)
	[ -e "$copy" ] || { cp -p "$path" "$copy" && mount --bind "$copy" "$path"; } || cannot "$path cannot be kept in memory"
done

# As a distribution's init does.
ip link set lo up
echo +cpu +memory +pids >/sys/fs/cgroup/cgroup.subtree_control || cannot "no control groups"
mkdir -p /dev/net && { [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200; } || cannot "no /dev/net/tun"
mkdir -p /tmp/home
export HOME=/tmp/home LABCTL_TESTS_REQUIRE_FEATURES=1 LABCTL_TESTS_SLOW="$slow"
unset XDG_RUNTIME_DIR
cd "$checkout" || cannot "no checkout"

failed=
stage() { # NAME COMMAND...
	name=$1
	shift
	printf '\n== %s: %s (%s s after the boot)\n' "$(uname -r)" "$name" "$(cut -d. -f1 /proc/uptime)"
	"$@" || failed="$failed, $name"
}
tests() { # ARGS...
	"$python" -m pytest -p no:cacheprovider -p no:hypothesispytest -m stock_kernel --durations=15 "$@"
}
as_user() {
	mkdir -p /tmp/user && chown 40000:40000 /tmp/user
	env -i PATH="$PATH" HOME=/tmp/user LANG=C.UTF-8 LABCTL_TESTS_REQUIRE_FEATURES=1 LABCTL_TESTS_SLOW="$slow" \
		setpriv --reuid=40000 --regid=40000 --clear-groups --inh-caps=-all "$@"
}
case $do in
exec)
	PATH=$checkout/.venv/bin:$PATH
	stage "$1" sh -c "$1"
	;;
pytest)
	stage pytest tests --junitxml="$results/junit.xml" "$@"
	;;
all)
	# shellcheck disable=SC2086  # lists of files
	stage "pytest as root" tests --junitxml="$results/junit.xml" $files
	stage "the shipped scenarios as root" "$python" -m labctl run --json "$results/scenarios.json" scenarios
	# shellcheck disable=SC2086
	stage "pytest as an ordinary user" as_user "$python" -m pytest -p no:cacheprovider --basetemp=/tmp/user/t \
		-m stock_kernel $files_of_user
	;;
esac
[ -z "$failed" ] || echo "FAILED on $(uname -r): ${failed#, }"
[ -z "$failed" ] && finish 0
finish 1
