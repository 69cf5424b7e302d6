package e2e_test

import (
	"debug/buildinfo"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// user is somebody with a home of his own, where the programs he runs keep what they remember.
type user struct {
	home string
	// env is added to what his programs inherit, "NAME=value".
	env []string
	// credentials are his name and password for the proxy, "NAME:PASSWORD"; empty for one who has none.
	credentials string
}

func newUser(t testing.TB) *user {
	t.Helper()
	return &user{home: t.TempDir()}
}

// command returns a command that dies with the tests if they do not end it. What would lead it to the configuration of the machine it
// runs on is left out of its environment.
func (u *user) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...) // without a test's context, which ends before the cleanups do, and servers end well in those
	cmd.Dir = u.home
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "XDG_") && !strings.HasPrefix(v, "DOCKER_") && !strings.HasPrefix(v, "REGISTRY_AUTH_FILE=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+u.home, "XDG_RUNTIME_DIR="+u.home, "COSIGN_PASSWORD=")
	cmd.Env = append(cmd.Env, u.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a program and returns all it says. ok tells whether it succeeded.
func (u *user) run(path string, args ...string) (out string, ok bool) {
	b, err := u.command(path, args...).CombinedOutput()
	return string(b), err == nil
}

func (u *user) mustRun(t testing.TB, path string, args ...string) string {
	t.Helper()
	out, ok := u.run(path, args...)
	if !ok {
		t.Fatalf("%s %s: %s", path, strings.Join(args, " "), out)
	}
	return out
}

func (u *user) path(name string) string { return filepath.Join(u.home, name) }

// write puts a file into the user's home.
func (u *user) write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(u.path(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, u.path(name), []byte(content))
}

// shortDir returns a folder that lasts as long as the test, for sockets: a test's own has too long a name for one.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

var versionNumber = regexp.MustCompile(`\d+\.\d+\.\d+`)

// versionIn returns the first version in what a program says of itself. A distribution's own additions are left out.
func versionIn(t testing.TB, out string) string {
	t.Helper()
	v := versionNumber.FindString(out)
	if v == "" {
		t.Fatalf("there is no version in %q", out)
	}
	return v
}

// builtVersion returns the version of a Go program that was installed as a module, for one that does not say it in full.
func builtVersion(t testing.TB, path string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return versionIn(t, info.Main.Version)
}

// filesIn returns the digests of all files below dir.
func filesIn(t testing.TB, dir string) map[oci.Digest]bool {
	t.Helper()
	found := map[oci.Digest]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		found[oci.FromBytes(b)] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What differs from run to run in what a client shows, and the word that stands for it in docs/clients.md.
var (
	shownTime   = regexp.MustCompile(`^time="[^"]*" `)
	shownDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	shownMap    = regexp.MustCompile(`\[map\[.*\]\]`)
	shownJSON   = regexp.MustCompile(`"detail":\[.*\]\}\]\}`)
)

// shown returns what of a client's output tells its user why: the last line with the proxy's message, and the line before those
// that only say "denied". Digests are left out, since a message may be about a signature rather than what it signs. names are what else
// differs from run to run, each followed by the word that stands for it.
func shown(out, message string, names ...string) string {
	message = shownDigest.ReplaceAllString(message, "DIGEST")
	lines := strings.Split(shownDigest.ReplaceAllString(strings.TrimSpace(out), "DIGEST"), "\n")
	found := ""
	for i, l := range lines {
		if !strings.Contains(l, message) {
			continue
		}
		found = strings.TrimSpace(l)
		of := i
		for of > 0 && strings.HasPrefix(strings.TrimSpace(lines[of]), "denied:") {
			of--
		}
		if of < i && strings.Contains(lines[of], "403") {
			found = strings.TrimSpace(lines[of]) + " ⏎ " + found
		}
	}
	found = strings.NewReplacer(append([]string{message, "MESSAGE"}, names...)...).Replace(found)
	found = shownTime.ReplaceAllString(found, "")
	found = shownMap.ReplaceAllString(found, "DETAIL")
	return shownJSON.ReplaceAllString(found, `"detail":DETAIL}]}`)
}

// The headings in docs/clients.md of the two tables.
const (
	pullTable = "# Clients"
	pushTable = "## Pushing"
)

// documented returns the rows of the table below a heading in docs/clients.md, without its head.
func documented(t testing.TB, heading string) (rows [][]string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut("\n"+string(doc), "\n"+heading+"\n")
	_, table, _ := strings.Cut(section, "|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for l := range strings.Lines(table) {
		rows = append(rows, strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(l), "| "), " |"), " | "))
	}
	return rows
}

// checkRow compares the line of a client in docs/clients.md with what was seen of it, which is the last cell. Other versions than the
// one documented are only wrong where CI promises which are there.
func checkRow(t testing.TB, heading, client, version, says string) {
	t.Helper()
	for _, cells := range documented(t, heading) {
		if cells[0] != client {
			continue
		}
		if cells[1] != version && os.Getenv("CI") != "true" {
			t.Logf("docs/clients.md is about %s %s, this is %s", client, cells[1], version)
			return
		}
		if got := cells[len(cells)-1]; cells[1] != version || got != "`"+says+"`" {
			t.Errorf("docs/clients.md says of %s\n%s %s\nwant\n%s `%s`", client, cells[1], got, version, says)
		}
		return
	}
	t.Errorf("docs/clients.md says nothing of %s, want\n| %s | %s | … | `%s` |", client, client, version, says)
}

// TestClientsTable checks that docs/clients.md lists the clients that are run, and no others.
func TestClientsTable(t *testing.T) {
	pull := []string{"oras pull", "helm pull", "cosign 3 verify", "cosign 2 verify", "notation verify"}
	for _, c := range pullers {
		pull = append(pull, c.name)
	}
	push := []string{"oras push", "helm push", "cosign 3 sign", "cosign 2 sign", "notation sign"}
	for _, c := range pushClients {
		push = append(push, c.name)
	}
	for heading, want := range map[string][]string{pullTable: pull, pushTable: push} {
		var got []string
		for _, cells := range documented(t, heading) {
			got = append(got, cells[0])
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-run +listed):\n%s", heading, diff)
		}
	}
}
