package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// childAttributes makes the child die with us, even when we are killed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// selfExecutable names this very program, even after its file was replaced by a newer one.
func selfExecutable() (string, error) { return "/proc/self/exe", nil }

// pipeBytes is how much the pipe to a child holds: as much as anyone may ask for. With the usual 64 KiB each of our chunks is handed
// over in four parts, and both processes are woken for each.
const pipeBytes = 1 << 20

// widen makes the pipe f hold more. Where the kernel does not let us it works as it is.
func widen(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}

// landlockVersion is the version of landlock that is asked for: the newest the library knows, since nothing is granted that a newer
// one could take back.
const landlockVersion = 11

// confine takes from the process what reading a layer does not need, for good: files outside dir, the network, other programs,
// and more memory and time than the limits. It returns what is in force, tried rather than assumed. Without landlock or seccomp in
// the kernel it confines as far as it can, which is no error; an error means that something went wrong. Of processor time it leaves
// cpuSeconds, those that are over included.
func confine(dir string, cpuSeconds uint64) (confinement, error) {
	if err := limitResources(cpuSeconds); err != nil {
		return confinement{}, fmt.Errorf("limiting resources: %w", err)
	}
	var c confinement
	// Best effort is what the library calls falling back to what the kernel has; what that is, is asked and tried below.
	if err := landlock.V11.BestEffort().Restrict(landlock.RWDirs(dir)); err != nil {
		return confinement{}, fmt.Errorf("applying landlock: %w", err)
	}
	if root, err := os.Open("/"); err == nil {
		_ = root.Close()
	} else if errors.Is(err, fs.ErrPermission) {
		version, err := landlocksys.LandlockGetABIVersion()
		if err != nil {
			return confinement{}, fmt.Errorf("asking for landlock's version: %w", err)
		}
		c.Landlock = min(version, landlockVersion)
	}
	if !seccomp.Supported() {
		return c, nil
	}
	filter, err := syscallFilter()
	if err != nil {
		return confinement{}, err
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		return confinement{}, fmt.Errorf("applying seccomp: %w", err)
	}
	_, err = net.Listen("unix", "@")
	c.Seccomp = errors.Is(err, fs.ErrPermission)
	return c, nil
}

// limitResources sets limits the kernel enforces. Those on memory are on top of what the process has already, since what the
// runtime and the race detector reserve before main is no fault of a layer.
func limitResources(cpuSeconds uint64) error {
	debug.SetMemoryLimit(softMemoryBytes)
	debug.SetGCPercent(garbagePercent)
	address, writable, err := memoryNow()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		resource   int
		soft, hard uint64
	}{
		{unix.RLIMIT_CORE, 0, 0},
		{unix.RLIMIT_NOFILE, maxOpenFiles, maxOpenFiles},
		{unix.RLIMIT_FSIZE, maxFileBytes, maxFileBytes},
		{unix.RLIMIT_CPU, cpuSeconds, hardCPUSeconds(cpuSeconds)},
		{unix.RLIMIT_AS, address + maxAddressBytes, address + maxAddressBytes},
		{unix.RLIMIT_DATA, writable + maxMemoryBytes, writable + maxMemoryBytes},
	} {
		// The hard limit too: it can raise none of them again.
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.soft, Max: l.hard}); err != nil {
			return fmt.Errorf("resource %d: %w", l.resource, err)
		}
	}
	return nil
}

// hardCPUSeconds is where a child is killed that has not died of the signal it is sent at cpuSeconds, which tells us why. It is so much
// more that the time it is then said to have used is past cpuSeconds, though the kernel counts that in another way, a tenth apart.
func hardCPUSeconds(cpuSeconds uint64) uint64 { return cpuSeconds + cpuSeconds/4 + 1 }

// memoryNow returns the bytes of address space and of writable memory in use (proc(5), statm).
func memoryNow() (address, writable uint64, err error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	var resident, shared, code, library uint64
	if _, err := fmt.Sscan(string(text), &address, &resident, &shared, &code, &library, &writable); err != nil {
		return 0, 0, fmt.Errorf("reading statm: %w", err)
	}
	page := uint64(os.Getpagesize())
	return address * page, writable * page, nil
}

// allowedCalls are the system calls the Go runtime, the decoders and the rpm database libraries need. Files are a matter of
// landlock. Names that an architecture does not have are left out there.
var allowedCalls = strings.Fields(`
	read write readv writev pread64 pwrite64 lseek close
	openat open fstat stat lstat newfstatat statx fcntl ftruncate fsync fdatasync unlink unlinkat getcwd access faccessat faccessat2
	readlink readlinkat getdents64 flock fchmod fchmodat umask
	epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 pipe2 poll ppoll
	munmap mremap madvise mincore brk
	futex nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday restart_syscall sched_yield sched_getaffinity
	rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
	getpid gettid getuid geteuid getgid getegid getppid uname sysinfo getrandom getrlimit getrusage
	exit exit_group set_robust_list rseq membarrier arch_prctl set_tid_address`)

// syscallFilter allows allowedCalls, new threads but not processes, memory that is not executable, and signals to oneself. All
// else is refused with EPERM.
func syscallFilter() (seccomp.Filter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Filter{}, fmt.Errorf("seccomp on this architecture: %w", err)
	}
	var names []string
	for _, name := range allowedCalls {
		if _, ok := info.SyscallNames[name]; ok {
			names = append(names, name)
		}
	}
	conditional := func(name string, argument uint32, op seccomp.Operation, value uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: op, Value: value}}}
	}
	return seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls: []seccomp.SyscallGroup{
				{Names: names, Action: seccomp.ActionAllow},
				{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{
					conditional("clone", 0, seccomp.BitsSet, unix.CLONE_THREAD),
					conditional("mmap", 2, seccomp.BitsNotSet, unix.PROT_EXEC),
					conditional("mprotect", 2, seccomp.BitsNotSet, unix.PROT_EXEC),
					conditional("tgkill", 0, seccomp.Equal, uint64(os.Getpid())),
				}},
				// A C library that is told that clone3 does not exist makes its threads by clone, whose flags a filter can see.
				{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)},
			},
		},
	}, nil
}
