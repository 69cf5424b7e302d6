package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// maxShownBytes is how much of the end of a log is shown when a test fails.
const maxShownBytes = 6 << 10

// process is a server, ours or another's, whose output is read as it comes.
type process struct {
	cmd *exec.Cmd
	log *journal
	// gone is closed when it has ended and all its output is in log.
	gone chan struct{}
}

// start starts a server. It is killed at the end of the test, if it still runs then; its output is shown if the test fails.
func start(t testing.TB, cmd *exec.Cmd, log *journal) *process {
	t.Helper()
	return startBy(t, cmd, log, cmd.Start)
}

// startBy is start for who has begin start cmd.
func startBy(t testing.TB, cmd *exec.Cmd, log *journal, begin func() error) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = begin()
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(errors.Join(err, r.Close()))
	}
	p := &process{cmd: cmd, log: log, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		p.log.read(r)
		_ = r.Close()    // read to its end
		_ = p.cmd.Wait() // ProcessState says how it ended
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text := p.log.text()
			t.Logf("%s said, at the end:\n%s", cmd.Path, text[max(0, len(text)-maxShownBytes):])
		}
	})
	return p
}

// kill ends the process without asking it, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.gone
}

// terminate asks the process to end and returns its exit code.
func (p *process) terminate(t testing.TB) int {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	select {
	case <-p.gone:
	case <-time.After(patience):
		t.Errorf("%s does not end when asked to", p.cmd.Path)
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signalling %s: %v", p.cmd.Path, err)
	}
}

// server is a running proxy.
type server struct {
	*process
	// registry and admin are the addresses it listens on, host:port.
	registry, admin string
}

// serve starts a proxy by the configuration at path and returns once it takes requests.
func serve(t testing.TB, path string) *server {
	t.Helper()
	return serveWatched(t, path, nil)
}

// serveWatched is serve with somebody who is told of every line of the log before anybody else.
func serveWatched(t testing.TB, path string, each func(line)) *server {
	t.Helper()
	cmd := command(t, binary, "serve", "--config", path)
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	log := newJournal()
	log.each = each
	p := start(t, cmd, log)
	at := p.log.await(t, "starting to serve", func(l line) bool { return l.Msg == "serving" })
	return &server{process: p, registry: at.Registry, admin: at.Admin}
}

// stop ends the proxy as an orchestrator does. It must end well, and must not have had a fault of its own.
func (s *server) stop(t testing.TB) {
	t.Helper()
	if code := s.terminate(t); code != 0 {
		t.Errorf("the proxy ended with code %d, want 0", code)
	}
	if n := s.log.count(says("panic")) + s.log.count(says("goroutine ")); n > 0 {
		t.Errorf("the proxy panicked:\n%s", s.log.text())
	}
}

// settle returns once everything that was logged for requests answered so far can be counted: the log is in order, and the line
// about this request comes after theirs.
func (s *server) settle(t testing.TB) {
	t.Helper()
	id := s.ask(t, http.MethodGet, "/v2/").header.Get("X-Request-Id")
	s.log.await(t, "the line of a request", func(l line) bool { return l.Msg == "answered" && l.RequestID == id })
}

// metric returns the sum of a metric's values over all its labels that hold label, which may be empty.
func (s *server) metric(t testing.TB, name, label string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for row := range strings.Lines(string(request(t, http.MethodGet, "http://"+s.admin+"/metrics").body)) {
		key, value, ok := strings.Cut(strings.TrimSpace(row), " ")
		bare, labels, _ := strings.Cut(key, "{")
		var v float64
		if !ok || bare != name || !strings.Contains(labels, label) {
			continue
		}
		if _, err := fmt.Sscan(value, &v); err != nil {
			t.Fatalf("metric %s: %v", row, err)
		}
		sum, found = sum+v, true
	}
	if !found && label == "" {
		t.Fatalf("there is no metric %s", name)
	}
	return sum
}
