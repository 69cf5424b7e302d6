package cache

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/seal"
)

// patient is how long tests wait for a Redis that answers: a loaded machine must not look like a slow Redis.
var patient = patience{dial: 20 * time.Second, answer: 20 * time.Second, call: time.Minute, lease: 400 * time.Millisecond, poll: 20 * time.Millisecond}

// server is a real Redis on a socket of its own, which can be killed and started again.
type server struct {
	socket string
	cmd    *exec.Cmd
}

// startRedis returns a running Redis without persistence. Where there is none the test is skipped, except in CI.
func startRedis(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	dir, err := os.MkdirTemp("", "tw") // t.TempDir may be longer than the path of a socket may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{socket: filepath.Join(dir, "redis.sock")}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *server) url() string { return "unix://" + s.socket }

// start returns when Redis has said that it accepts connections.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket, "--dir", filepath.Dir(s.socket),
		"--save", "", "--appendonly", "no", "--daemonize", "no")
	output, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.Contains(strings.ToLower(lines.Text()), "ready to accept connections") {
			go func() { _, _ = io.Copy(io.Discard, output) }() // ends with the process
			return
		}
	}
	s.kill()
	t.Fatal("redis-server ended before it accepted connections")
}

// kill ends Redis as a crash would. It may be called again.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// client returns a connection of somebody else to the same Redis.
func (s *server) client(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket, Protocol: 2})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func testKey(t testing.TB) seal.Key {
	t.Helper()
	key, err := seal.NewKey([]byte("the seal key of the tests, 32 bytes or more"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// openOn returns Verdicts that share the Redis at url, as a replica of its own would.
func openOn(t *testing.T, url string, now func() time.Time, p patience) *Verdicts {
	t.Helper()
	v, err := open(Options{RedisURL: url, Key: testKey(t), Now: now}, p, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// listener accepts connections and answers each with what answer says, which runs until the connection closes.
type listener struct {
	net.Listener
	accepted chan struct{} // one for each connection
}

func listen(t *testing.T, answer func(net.Conn)) *listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &listener{l, make(chan struct{}, 1000)}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			s.accepted <- struct{}{}
			go func() {
				defer func() { _ = conn.Close() }()
				answer(conn)
			}()
		}
	}()
	return s
}

func (l *listener) url() string { return "redis://" + l.Addr().String() }
