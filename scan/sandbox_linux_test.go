package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// deeds are what a child must not be able to do. Each returns nil when it could.
var deeds = map[string]func() error{
	"read a file":                     func() error { _, err := os.ReadFile("/etc/passwd"); return err },
	"list a directory":                func() error { _, err := os.ReadDir("/"); return err },
	"read its own environment":        func() error { _, err := os.ReadFile("/proc/self/environ"); return err },
	"read its parent's memory":        func() error { _, err := os.Open(fmt.Sprintf("/proc/%d/mem", os.Getppid())); return err },
	"write to /tmp":                   func() error { return os.WriteFile("/tmp/tidewaiter-escaped", nil, 0o600) },
	"write above its directory":       func() error { return os.WriteFile("../escaped", nil, 0o600) },
	"write through a link":            writeThroughLink,
	"dial TCP":                        func() error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err },
	"listen on TCP":                   func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
	"send UDP":                        func() error { _, err := net.Dial("udp", "127.0.0.1:1"); return err },
	"listen on a unix socket":         func() error { _, err := net.Listen("unix", "socket"); return err },
	"dial an abstract socket":         func() error { _, err := net.Dial("unix", "@tidewaiter"); return err },
	"start a program":                 func() error { return exec.Command("/bin/true").Run() },
	"become a program":                func() error { return syscall.Exec("/proc/self/exe", []string{"x"}, nil) },
	"fork":                            func() error { return errnoOf(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
	"fork without end":                forkWithoutEnd,
	"start a program by io_uring":     func() error { return errnoOf(unix.SYS_IO_URING_SETUP, 1, 0, 0) },
	"make a namespace":                func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"load code into the kernel":       func() error { return errnoOf(unix.SYS_BPF, 0, 0, 0) },
	"signal its parent":               func() error { return unix.Kill(os.Getppid(), 0) },
	"signal a thread of others":       func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
	"trace its parent":                func() error { return unix.PtraceAttach(os.Getppid()) },
	"map executable memory":           mapExecutable,
	"raise its limits":                func() error { return unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: 1 << 50, Max: 1 << 50}) },
	"make a file of anonymous memory": func() error { _, err := unix.MemfdCreate("x", 0); return err },
	"write a file past the limit":     writePastLimit,
	"mount":                           func() error { return unix.Mount("none", ".", "tmpfs", 0, "") },
}

// forkWithoutEnd forks whatever way there is, until it is refused as many times as there are ways.
func forkWithoutEnd() error {
	for _, flags := range []uintptr{uintptr(unix.SIGCHLD), 0, unix.CLONE_VM | unix.CLONE_VFORK, unix.CLONE_PARENT | uintptr(unix.SIGCHLD)} {
		if err := errnoOf(unix.SYS_CLONE, flags, 0, 0); !refused(err) {
			return err
		}
	}
	return errnoOf(unix.SYS_CLONE3, 0, 0, 0)
}

func writeThroughLink() error {
	if err := os.Symlink("/tmp", "way-out"); err != nil {
		return err
	}
	return os.WriteFile("way-out/tidewaiter-escaped", nil, 0o600)
}

func writePastLimit() error {
	f, err := os.Create("large")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return f.Truncate(maxFileBytes + 1)
}

func mapExecutable() error {
	_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	return err
}

func errnoOf(call, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// rights are what a child must be able to do.
var rights = map[string]func() error{
	"write a file of its own": func() error { return os.WriteFile("own", []byte("x"), 0o600) },
	"read it":                 func() error { _, err := os.ReadFile("own"); return err },
	"remove it":               func() error { return os.Remove("own") },
	"have no environment": func() error {
		if env := os.Environ(); len(env) > 0 {
			return fmt.Errorf("%q", env)
		}
		return nil
	},
	"start threads": func() error {
		done := make(chan struct{})
		for range 8 {
			go func() { done <- struct{}{} }()
		}
		for range 8 {
			<-done
		}
		return nil
	},
}

// harmless are the deeds anyone can do who is not confined, without doing harm.
var harmless = []string{
	"read a file", "list a directory", "read its own environment", "listen on TCP", "send UDP", "listen on a unix socket", "start a program",
	"signal its parent", "map executable memory", "make a file of anonymous memory",
}

// confinedImpostors are impostors that confine themselves first, as the real child does.
var confinedImpostors = map[string]func() int{
	"impostor-escaping": func() int {
		c, err := confine(".", maxCPUSeconds)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		encoder := json.NewEncoder(os.Stdout)
		_ = encoder.Encode(hello{c})
		outcome := map[string]string{}
		for name, do := range deeds {
			if err := do(); err == nil {
				outcome[name] = "could"
			} else if !refused(err) {
				outcome[name] = err.Error()
			}
		}
		for _, name := range []string{"write a file of its own", "read it", "remove it", "have no environment", "start threads"} {
			if err := rights[name](); err != nil {
				outcome[name] = err.Error()
			}
		}
		_ = encoder.Encode(outcome)
		return 0
	},
	"impostor-at-large": func() int {
		welcome()
		outcome := map[string]string{}
		for _, name := range harmless {
			if err := deeds[name](); err != nil {
				outcome[name] = err.Error()
			}
		}
		_ = json.NewEncoder(os.Stdout).Encode(outcome)
		return 0
	},
	"impostor-limited": func() int {
		c, err := confine(".", maxCPUSeconds)
		if err != nil {
			return 1
		}
		encoder := json.NewEncoder(os.Stdout)
		_ = encoder.Encode(hello{c})
		limits := map[string][2]uint64{}
		for name := range wantLimits {
			var l unix.Rlimit
			if err := unix.Getrlimit(limitNumbers[name], &l); err == nil {
				limits[name] = [2]uint64{l.Cur, l.Max}
			}
		}
		_ = encoder.Encode(limits)
		return 0
	},
	"impostor-spinning": spin,
	"impostor-spinning-on": func() int { // in somebody's hands who does not mind the signal
		signal.Ignore(unix.SIGXCPU)
		return spin()
	},
	"impostor-greedy": func() int {
		c, err := confine(".", maxCPUSeconds)
		if err != nil {
			return 1
		}
		_ = json.NewEncoder(os.Stdout).Encode(hello{c})
		var held [][]byte
		for {
			held = append(held, make([]byte, 64<<20))
			fmt.Println(strconv.Itoa(64 * len(held)))
		}
	},
}

// spin confines itself, takes a layer, and from then on all the time it is given, in two threads, whose time is counted together.
func spin() int {
	c, err := confine(".", spinSeconds)
	if err != nil {
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(hello{c})
	_, _ = io.Copy(io.Discard, os.Stdin)
	var turns atomic.Int64
	for range 2 {
		go func() {
			for {
				turns.Add(1)
			}
		}()
	}
	select {}
}

// wantLimits are the limits in force in a child that are no matter of what it had before, soft and hard.
var (
	wantLimits = map[string][2]uint64{
		"processor time": {maxCPUSeconds, hardCPUSeconds(maxCPUSeconds)}, "open files": {maxOpenFiles, maxOpenFiles},
		"file size": {maxFileBytes, maxFileBytes}, "core dumps": {0, 0},
	}
	limitNumbers = map[string]int{
		"processor time": unix.RLIMIT_CPU, "open files": unix.RLIMIT_NOFILE, "file size": unix.RLIMIT_FSIZE, "core dumps": unix.RLIMIT_CORE,
	}
)

func TestChildThatSpinsIsStopped(t *testing.T) {
	layer := tarball(t, regular("a", "b"))
	want := []gate.Gap{{Kind: gate.GapLimit, Layer: oci.FromBytes(layer), Why: "reading the layer takes more than 1 seconds of processor time"}}
	for _, arg := range []string{"impostor-spinning", "impostor-spinning-on"} {
		t.Run(arg, func(t *testing.T) {
			got, err := impostorLayers(t, arg).ReadLayer(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), gate.Look{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Gaps); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChildIsLimited(t *testing.T) {
	c := spawnImpostor(t, "impostor-limited")
	var got map[string][2]uint64
	if err := json.NewDecoder(c.answer).Decode(&got); err != nil {
		t.Fatalf("%v: %s", err, c.complaint)
	}
	if diff := cmp.Diff(wantLimits, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
}

// refused reports whether err is a refusal rather than some other failure, which would prove nothing.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EFBIG) || errors.Is(err, unix.ENOSYS)
}

// spawnImpostor starts an impostor as a child is started.
func spawnImpostor(t *testing.T, arg string) *child {
	t.Helper()
	c, err := spawn(settings{arg: arg, tempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end() })
	if !c.confinement.complete() && os.Getenv("CI") == "" {
		t.Skipf("this kernel confines by %s only", c.confinement)
	}
	return c
}

func TestChildCannotEscape(t *testing.T) {
	for _, tt := range []struct{ name, arg string }{
		{"confined it can do nothing", "impostor-escaping"},
		{"at large it could", "impostor-at-large"}, // or the first would prove nothing
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := spawnImpostor(t, tt.arg)
			var outcome map[string]string
			if err := json.NewDecoder(c.answer).Decode(&outcome); err != nil {
				t.Fatalf("%v: %s", err, c.complaint)
			}
			for deed, how := range outcome {
				t.Errorf("%s: %s", deed, how)
			}
		})
	}
}

func TestChildMemoryIsBounded(t *testing.T) {
	c := spawnImpostor(t, "impostor-greedy")
	said, err := io.ReadAll(c.answer)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(said))
	if len(lines) == 0 {
		t.Fatalf("it could allocate nothing: %s", c.complaint)
	}
	reached, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}
	if least, most := maxFileBytes>>20, maxMemoryBytes>>20; reached < least || reached > most {
		t.Errorf("it reached %d MiB, want between %d and %d", reached, least, most)
	}
}

func TestConfinementSaysNoMoreThanIsTrue(t *testing.T) {
	for _, tt := range []struct {
		c        confinement
		want     string
		complete bool
	}{
		{confinement{}, "none", false},
		{confinement{Seccomp: true}, "seccomp", false},
		{confinement{Landlock: 3}, "landlock-v3", false},
		{confinement{Landlock: 7, Seccomp: true}, "landlock-v7+seccomp", true},
	} {
		t.Run(tt.want, func(t *testing.T) {
			if got := tt.c.String(); got != tt.want || tt.c.complete() != tt.complete {
				t.Errorf("%q, complete %t; want %q, %t", got, tt.c.complete(), tt.want, tt.complete)
			}
		})
	}
}
