package e2e_test

import (
	"path/filepath"
	"slices"
	"testing"
)

func skopeoCopy(t *testing.T, _ *server) puller {
	u, skopeo := newUser(t), program(t, "skopeo")
	return puller{
		version: versionIn(t, u.mustRun(t, skopeo, "--version")),
		pull: func(ref string) (string, bool) {
			return u.run(skopeo, "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+u.path(filepath.Base(ref)))
		},
		files: u.home,
	}
}

func skopeoSync(t *testing.T, _ *server) puller {
	u, skopeo := newUser(t), program(t, "skopeo")
	return puller{
		version: versionIn(t, u.mustRun(t, skopeo, "--version")),
		pull: func(ref string) (string, bool) {
			return u.run(skopeo, "sync", "--src-tls-verify=false", "--src", "docker", "--dest", "dir", "--scoped", ref, u.home)
		},
		files: u.home,
	}
}

// storage are the options that keep podman and buildah in the user's home, but for what may have no long name.
func (u *user) storage(t *testing.T) []string {
	t.Helper()
	return []string{"--root", u.path("storage"), "--runroot", shortDir(t), "--storage-driver", "vfs"}
}

// podman returns what runs podman. Without a folder for networks of its own it writes to the machine's.
func (u *user) podman(t *testing.T) func(args ...string) (out string, ok bool) {
	t.Helper()
	podman := program(t, "podman")
	options := append(u.storage(t), "--network-config-dir", u.path("networks"), "--events-backend", "none")
	return func(args ...string) (string, bool) { return u.run(podman, slices.Concat(options, args)...) }
}

// buildah returns what runs buildah.
func (u *user) buildah(t *testing.T) func(args ...string) (out string, ok bool) {
	t.Helper()
	buildah := program(t, "buildah")
	options := u.storage(t)
	return func(args ...string) (string, bool) { return u.run(buildah, slices.Concat(options, args)...) }
}

func podmanPull(t *testing.T, _ *server) puller {
	podman := newUser(t).podman(t)
	version, _ := podman("--version")
	return puller{
		version: versionIn(t, version),
		pull:    func(ref string) (string, bool) { return podman("pull", "--tls-verify=false", ref) },
		says: func(t *testing.T, ref string) string {
			out, _ := podman("image", "inspect", "--format", "{{.Digest}}", ref)
			return out
		},
	}
}

func buildahPull(t *testing.T, _ *server) puller { return buildahPuller(t, "pull") }

func buildahFrom(t *testing.T, _ *server) puller { return buildahPuller(t, "from") }

func buildahPuller(t *testing.T, verb string) puller {
	buildah := newUser(t).buildah(t)
	version, _ := buildah("--version")
	return puller{
		version: versionIn(t, version),
		pull:    func(ref string) (string, bool) { return buildah(verb, "--tls-verify=false", ref) },
		says: func(t *testing.T, ref string) string {
			out, _ := buildah("inspect", "--type", "image", "--format", "{{.FromImageDigest}}", ref)
			return out
		},
	}
}
