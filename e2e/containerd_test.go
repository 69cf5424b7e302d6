package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// containerdKind is a generation of containerd: the names its programs have in the path, and its configuration.
type containerdKind struct {
	daemon, ctr string
	// config is the configuration file, with the folder of everything it keeps and the name of its socket.
	config string
}

// The generations of containerd nodes run. They share a machine, so the programs of the second have names of their own. It has no
// plugins of nodes (NRI): their socket has a name that no option moves.
var (
	containerd1 = containerdKind{"containerd", "ctr", `version = 2
root = "%[1]s/root"
state = "%[2]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "%[2]s/s"
[ttrpc]
  address = "%[2]s/t"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "%[1]s/cni/bin"
  conf_dir = "%[1]s/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "%[1]s/certs.d"
`}
	containerd2 = containerdKind{"containerd2", "ctr2", `version = 3
root = "%[1]s/root"
state = "%[2]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "%[2]s/s"
[ttrpc]
  address = "%[2]s/t"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "%[1]s/certs.d"
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["%[1]s/cni/bin"]
  conf_dir = "%[1]s/cni/conf"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "native"
`}
)

// containerd is a running containerd of the test's own.
type containerd struct {
	*user
	ctr, socket string
	version     string
}

func startContainerd(t *testing.T, k containerdKind) *containerd {
	t.Helper()
	daemon := program(t, k.daemon)
	if os.Getuid() != 0 {
		t.Skip("containerd runs as root only")
	}
	u, dir := newUser(t), shortDir(t)
	// The client that came with it: others may be in the path too, and it is the client that pulls.
	c := &containerd{user: u, ctr: program(t, filepath.Join(filepath.Dir(daemon), k.ctr)), socket: filepath.Join(dir, "s")}
	c.version = versionIn(t, u.mustRun(t, daemon, "--version"))
	u.write(t, "config.toml", fmt.Sprintf(k.config, u.home, dir))
	start(t, u.command(daemon, "--config", u.path("config.toml")), newJournal()).log.await(t, "starting containerd", says("containerd successfully booted"))
	return c
}

// configure gives the node that hosts.toml for a registry, in place of any other.
func (c *containerd) configure(t *testing.T, registry, hostsTOML string) {
	t.Helper()
	c.write(t, filepath.Join("certs.d", registry, "hosts.toml"), hostsTOML)
}

// pullers are the two ways into containerd: the client it comes with, and the interface that Kubernetes uses. They pull by certs.d.
func (c *containerd) pullers(t *testing.T) map[string]puller {
	t.Helper()
	return map[string]puller{"ctr": c.ctrPuller(t), "CRI": c.criPuller(t)}
}

func (c *containerd) ctrPuller(t *testing.T) puller {
	t.Helper()
	return puller{
		version: c.version,
		pull: func(ref string) (string, bool) {
			return c.run(c.ctr, "--address", c.socket, "images", "pull", "--snapshotter", "native", "--hosts-dir", c.path("certs.d"), ref)
		},
		files: c.path("root/io.containerd.content.v1.content/blobs"),
	}
}

func (c *containerd) criPuller(t *testing.T) puller {
	t.Helper()
	crictl := program(t, "crictl")
	c.write(t, "crictl.yaml", "{}\n")
	endpoint := "unix://" + c.socket
	return puller{
		version: c.version,
		pull: func(ref string) (string, bool) {
			return c.run(crictl, "--config", c.path("crictl.yaml"), "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "pull", ref)
		},
		files: c.path("root/io.containerd.content.v1.content/blobs"),
	}
}
