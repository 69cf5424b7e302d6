package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// dockerd is a running dockerd of the test's own, and a user whose docker speaks to it.
type dockerd struct {
	*user
	docker  string
	version string
}

// startDockerd starts dockerd with that daemon.json. env is added to its environment.
func startDockerd(t *testing.T, daemonJSON string, env ...string) *dockerd {
	t.Helper()
	daemon, docker := program(t, "dockerd"), program(t, "docker")
	if os.Getuid() != 0 {
		t.Skip("dockerd runs as root only")
	}
	u, dir := newUser(t), shortDir(t)
	u.write(t, "daemon.json", daemonJSON)
	socket := "unix://" + filepath.Join(dir, "s")
	// It has folders below /run and /opt that no option moves, so it gets ones of its own.
	cmd := u.command("/bin/sh", "-c", `mount -t tmpfs none /run && mount -t tmpfs none /opt && exec "$0" "$@"`, daemon,
		"--config-file", u.path("daemon.json"), "--data-root", u.path("data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", socket, "--storage-driver", "vfs", "--iptables=false", "--ip6tables=false", "--bridge=none")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	p := start(t, cmd, newJournal())
	t.Cleanup(func() { p.terminate(t) }) // it starts a containerd, which only ends with it when it ends well
	p.log.await(t, "starting dockerd", says("API listen on"))
	u.env = []string{"DOCKER_HOST=" + socket}
	return &dockerd{user: u, docker: docker, version: versionIn(t, u.mustRun(t, docker, "version", "--format", "{{.Server.Version}}"))}
}

func (d *dockerd) pull(ref string) (out string, ok bool) { return d.run(d.docker, "pull", ref) }

func dockerPull(t *testing.T, p *server) puller {
	d := startDockerd(t, printed(t, "docker", p, host)[0].Content)
	return puller{
		version: d.version,
		pull:    d.pull,
		says: func(t *testing.T, ref string) string {
			return d.mustRun(t, d.docker, "image", "inspect", "--format", "{{.RepoDigests}}", ref)
		},
	}
}

// TestPrintedDocker pulls images of the public registry, which is up, as far as dockerd can tell, and serves everything.
func TestPrintedDocker(t *testing.T) {
	t.Parallel()
	origin := startRegistry(t, ocitest.Options{})
	s := clientsSite(t, "docker.io")
	for _, fate := range fates {
		content, _ := s.upstream.Manifest(fate.repo, "1.0")
		if !strings.Contains(content.MediaType, "index") {
			copyImage(t, s.upstream, origin, fate.repo, content)
		}
	}
	p := s.serve(t)
	world := publicRegistry(t, origin)

	t.Run("by the proxy's name it asks nobody else", func(t *testing.T) {
		d := startDockerd(t, printed(t, "docker", p, "docker.io")[0].Content, world...)
		checkFates(t, puller{pull: d.pull}, p.registry+"/docker.io")
		checkUnasked(t, origin)
	})
	t.Run("with the proxy as a registry mirror it pulls from the origin what the proxy denies", func(t *testing.T) {
		d := startDockerd(t, fmt.Sprintf(`{"registry-mirrors": ["http://%s"]}`, p.registry), world...)
		if out, ok := d.pull("shop/vulnerable:1.0"); !ok {
			t.Errorf("it does not, so there is no need to name images by the proxy:\n%s", out)
		}
		if got := origin.Count(http.MethodGet, ocitest.KindManifest); got == 0 {
			t.Error("the origin was not asked for the manifest")
		}
	})
}

// publicRegistry returns the environment of a program that takes origin for the public registry: a proxy for HTTPS that leads every
// connection to it, and a certificate for its name.
func publicRegistry(t *testing.T, origin *ocitest.Registry) []string {
	t.Helper()
	cert, key := certificate(t, 1, "registry-1.docker.io")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(origin.URL())
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.StartTLS()
	t.Cleanup(front.Close)
	tunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "registry-1.docker.io:443" {
			http.Error(w, "there is nothing else out there", http.StatusBadGateway)
			return
		}
		connect(w, front.Listener.Addr().String())
	}))
	t.Cleanup(tunnel.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, cert)
	return []string{"HTTPS_PROXY=" + tunnel.URL, "SSL_CERT_FILE=" + file}
}

// connect joins the client of w to address, until either of them is done.
func connect(w http.ResponseWriter, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.Copy(server, buffered) // whoever ends first ends the other
		_ = server.Close()
	})
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
		_, _ = io.Copy(client, server)
	}
	_ = client.Close()
	sending.Wait()
}
