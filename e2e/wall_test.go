package e2e_test

import (
	"bytes"
	bytesof "encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wall is the time of day as one process sees it, which may be set while it runs. The program is the one that is shipped: the kernel
// hands its questions for the time of day over to the test, which answers them. What measures durations goes on as it does when
// somebody sets a machine's clock. It is safe for concurrent use.
type wall struct {
	ahead atomic.Int64 // of the machine's, in nanoseconds
	asked atomic.Int64 // how often the process was answered
}

// set puts the clock that far ahead of the machine's, behind it for what is negative.
func (w *wall) set(ahead time.Duration) { w.ahead.Store(int64(ahead)) }

// serveByClock starts a proxy that goes by w.
func (s *site) serveByClock(t *testing.T, w *wall) *server {
	t.Helper()
	cmd := command(t, binary, "serve", "--config", s.write(t))
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	log := newJournal()
	gone := make(chan struct{})
	p := &server{process: startBy(t, cmd, log, func() error {
		err := w.start(cmd, gone)
		if err != nil && os.Getenv("CI") != "true" {
			t.Skipf("setting the clock of a process: %v", err)
		}
		return err
	})}
	t.Cleanup(func() { // before it is killed, were that needed
		select {
		case <-p.gone:
		default:
			p.stop(t)
		}
	})
	go func() {
		<-p.gone
		close(gone)
	}()
	at := log.await(t, "starting to serve", func(l line) bool { return l.Msg == "serving" })
	p.registry, p.admin = at.Registry, at.Admin
	if w.asked.Load() == 0 {
		t.Fatal("the process does not go by the clock of the test")
	}
	return p
}

// start starts cmd on a thread whose questions for the time are asked of w, which the new process inherits, and answers them until gone
// is closed. The thread lasts as long, since the process is to die with it.
func (w *wall) start(cmd *exec.Cmd, gone <-chan struct{}) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never given back: it is the thread that is filtered
		listener, err := filterTime()
		if err != nil {
			started <- err
			return
		}
		cmd.SysProcAttr.Ptrace = true
		answering := make(chan struct{})
		go func() {
			defer close(answering)
			w.answer(listener, gone)
		}()
		if err = cmd.Start(); err == nil {
			err = withoutSharedClock(cmd.Process.Pid)
		}
		started <- err
		<-gone
		<-answering
	}()
	return <-started
}

// filterTime has the kernel ask whoever reads the file it returns, instead of answering this thread and its children itself, when they
// want to know the time of day.
func filterTime() (listener int, err error) {
	const number, firstArgument = 0, 16 // within what filters look at, struct seccomp_data
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLOCK_GETTIME, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArgument},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.CLOCK_REALTIME, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return 0, fmt.Errorf("filtering system calls: %w", errno)
	}
	return int(fd), nil
}

// withoutSharedClock takes from a process that stopped where its program begins the page of the kernel that tells the time without being
// asked, and lets it go on.
func withoutSharedClock(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		return fmt.Errorf("waiting for the program to begin: %v, %w", status, err)
	}
	dir := filepath.Join("/proc", fmt.Sprint(pid))
	told, err := os.ReadFile(filepath.Join(dir, "auxv"))
	if err != nil {
		return err
	}
	maps, err := os.ReadFile(filepath.Join(dir, "maps"))
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(filepath.Join(dir, "mem"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }() // written to, and not buffered
	for l := range strings.Lines(string(maps)) {
		var from, to int64
		if !strings.HasSuffix(l, "[stack]\n") {
			continue
		}
		if _, err := fmt.Sscanf(l, "%x-%x", &from, &to); err != nil {
			return err
		}
		stack := make([]byte, to-from)
		if _, err := memory.ReadAt(stack, from); err != nil {
			return err
		}
		at := bytes.Index(stack, told)
		const sharedPage, ignored, size = 33, 1, 16 // AT_SYSINFO_EHDR, AT_IGNORE, and how long an entry is
		for i := 0; at >= 0 && i+size <= len(told); i += size {
			if bytesof.NativeEndian.Uint64(told[i:]) == sharedPage {
				if _, err := memory.WriteAt(bytesof.NativeEndian.AppendUint64(nil, ignored), from+int64(at+i)); err != nil {
					return err
				}
				return unix.PtraceDetach(pid)
			}
		}
	}
	return errors.New("the process has no shared page")
}

// notification and answered are the kernel's struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	at         uint64
	arguments  [6]uint64
}

type answered struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// answer answers until gone is closed.
func (w *wall) answer(listener int, gone <-chan struct{}) {
	defer func() { _ = unix.Close(listener) }() // nobody asks any more
	for {
		select {
		case <-gone:
			return
		default:
		}
		polled := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		const lookAgain = 100 // milliseconds, whether it is gone
		if n, err := unix.Poll(polled, lookAgain); n == 0 || err != nil {
			continue
		}
		var asked notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // whoever asked has died
		}
		now := unix.NsecToTimespec(time.Now().UnixNano() + w.ahead.Load())
		told := answered{id: asked.id}
		if err := tell(int(asked.pid), uintptr(asked.arguments[1]), &now); err != nil {
			told.errno = -int32(syscall.EFAULT)
		}
		w.asked.Add(1)
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&told))) // it may have died
	}
}

// tell writes the time where a process wants it.
func tell(pid int, where uintptr, now *unix.Timespec) error {
	const size = unsafe.Sizeof(*now)
	local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(now)), Len: uint64(size)}}
	_, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: where, Len: int(size)}}, 0)
	return err
}
