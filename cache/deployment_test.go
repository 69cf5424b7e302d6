package cache

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/gate"
)

func TestDeployments(t *testing.T) {
	const password = "hunter2"
	for url, want := range map[string]string{
		"redis://127.0.0.1:1/2":  "*redis.Client",
		"unix:///run/redis.sock": "*redis.Client",
		"redis://127.0.0.1:1?master_name=main&addr=127.0.0.1:2&password=" + password: "*redis.Client",
		"redis://127.0.0.1:1?cluster=true&addr=127.0.0.1:2":                          "*redis.ClusterClient",
		"rediss://user:" + password + "@host:1?cluster=true":                         "*redis.ClusterClient",

		"redis://127.0.0.1:1?master_name=":                             "",
		"redis://127.0.0.1:1?master_name=main&replica_only=true":       "",
		"redis://127.0.0.1:1?master_name=main&route_randomly=true":     "",
		"redis://127.0.0.1:1?master_name=main&cluster=true":            "",
		"redis://127.0.0.1:1?cluster=no&password=" + password:          "",
		"redis://127.0.0.1:1?cluster=false":                            "",
		"redis://127.0.0.1:1?cluster=true&read_only=true":              "",
		"redis://127.0.0.1:1?cluster=true&addr=" + password:            "",
		"rediss://127.0.0.1:1?master_name=main&skip_verify=true":       "",
		"rediss://127.0.0.1:1?cluster=true&skip_verify=true":           "",
		"unix:///run/redis.sock?cluster=true":                          "",
		"http://127.0.0.1:1?master_name=main&password=" + password:     "",
		"redis://127.0.0.1:1?addr=127.0.0.1:2&password=" + password:    "",
		"redis://127.0.0.1:1?master_name=main&option=" + password:      "",
		"redis://127.0.0.1:1?cluster=true&master=" + password + "&x=1": "",
	} {
		connect, err := parseDeployment(url, production)
		if err != nil {
			if want != "" || strings.Contains(err.Error(), password) {
				t.Errorf("%s: got %v", url, err)
			}
			continue
		}
		c := connect()
		if got := fmt.Sprintf("%T", c); got != want {
			t.Errorf("%s: got %s, want %q", url, got, want)
		}
		_ = c.Close()
	}
}

// node is a Redis that listens on a port of loopback: a server, a sentinel, or a node of a cluster.
type node struct {
	address string
	cmd     *exec.Cmd
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// startNode starts redis-server with more arguments, or a configuration file before them.
func startNode(t *testing.T, port string, args ...string) *node {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	args = append(args, "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir())
	n := &node{address: net.JoinHostPort("127.0.0.1", port), cmd: exec.Command("redis-server", args...)}
	output, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if text := strings.ToLower(lines.Text()); strings.Contains(text, "ready to accept connections") || strings.Contains(text, "sentinel id is") || strings.Contains(text, "+monitor") {
			go func() { _, _ = io.Copy(io.Discard, output) }() // ends with the process
			return n
		}
	}
	t.Fatal("redis-server ended before it accepted connections")
	return nil
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// await returns once done does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond) // to look again; that it has happened is what is waited for
	defer ticker.Stop()
	vain := time.After(time.Minute)
	for !done() {
		select {
		case <-ticker.C:
		case <-vain:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// work checks that two replicas over the Redis at url share verdicts and leases, and hear each other.
func work(t *testing.T, url string) (a, b *Verdicts) {
	t.Helper()
	clock := &cachetest.Clock{}
	a, b = openOn(t, url, clock.Now, patient), openOn(t, url, clock.Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, a, key, v)
	if got, ok := b.Get(t.Context(), key); !ok || got.Decision != v.Decision {
		t.Errorf("got %v, %v", got.Decision, ok)
	}
	_, heard := listenTo(t, b.Fleet())
	if err := a.Fleet().Announce(t.Context(), "topic", nil); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, heard); got != "topic " {
		t.Errorf("heard %q", got)
	}
	l := acquire(t, a.Fleet())
	l.Release()
	acquire(t, b.Fleet()).Release()
	return a, b
}

func TestSentinels(t *testing.T) {
	master, replica := freePort(t), freePort(t)
	first := startNode(t, master, "--save", "")
	startNode(t, replica, "--save", "", "--replicaof", "127.0.0.1", master)
	port := freePort(t)
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	config := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 5000\n", master)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := startNode(t, port, file, "--sentinel")
	url := "redis://" + sentinel.address + "?master_name=main"
	a, _ := work(t, url)
	asks := redis.NewSentinelClient(&redis.Options{Addr: sentinel.address, Protocol: 2})
	t.Cleanup(func() { _ = asks.Close() })
	await(t, "the sentinel knows the replica", func() bool {
		found, err := asks.Replicas(t.Context(), "main").Result()
		return err == nil && len(found) == 1 && found[0]["master-link-status"] == "ok"
	})
	first.kill()
	key, v := cachetest.NewVerdict("after")
	if err := a.Put(t.Context(), key, v); err == nil {
		t.Log("the verdict was kept before the master was missed")
	}
	if got, ok := a.Get(t.Context(), key); !ok || got.Decision != v.Decision {
		t.Errorf("while there is no master: got %v, %v, want what is remembered here", got.Decision, ok)
	}
	await(t, "the replica is the master", func() bool {
		at, err := asks.GetMasterAddrByName(t.Context(), "main").Result()
		return err == nil && at[1] == replica
	})
	work(t, url)
	await(t, "those who were there before go on too", func() bool { return a.Put(context.WithoutCancel(t.Context()), key, v) == nil })
}

func TestCluster(t *testing.T) {
	if _, err := exec.LookPath("redis-cli"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("redis-cli is not installed")
	}
	create := []string{"--cluster", "create"}
	var nodes []*node
	for range 3 {
		n := startNode(t, freeClusterPort(t), "--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
		nodes, create = append(nodes, n), append(create, n.address)
	}
	if out, err := exec.Command("redis-cli", append(create, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, n := range nodes {
		c := redis.NewClient(&redis.Options{Addr: n.address, Protocol: 2})
		await(t, "the nodes know each other", func() bool {
			info, err := c.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok")
		})
		_ = c.Close()
	}
	url := "redis://" + nodes[0].address + "?cluster=true&addr=" + nodes[1].address
	work(t, url)
	t.Run("obeys the laws, whichever node has a key", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T, now func() time.Time) gate.Verdicts {
			for _, n := range nodes {
				c := redis.NewClient(&redis.Options{Addr: n.address, Protocol: 2})
				if err := c.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			}
			return openOn(t, url, now, patient)
		})
	})
}

// freeClusterPort returns a port whose bus port, 10000 above, there is too.
func freeClusterPort(t *testing.T) string {
	t.Helper()
	for {
		var n int
		if _, err := fmt.Sscan(freePort(t), &n); err != nil {
			t.Fatal(err)
		}
		if n > 10000 && n <= 55000 {
			return fmt.Sprint(n - 10000)
		}
	}
}
