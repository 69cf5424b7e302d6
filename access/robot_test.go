package access_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
)

// robotPlace returns a place with a robot called ci that ends in an hour, and its secret.
func robotPlace(t testing.TB) (*place, string) {
	t.Helper()
	secret := ""
	p := newPlace(t, func(p *place, o *access.Options) {
		o.RobotsFile = filepath.Join(p.dir, "robots.yaml")
		var err error
		secret, err = access.AddRobot(o.RobotsFile, access.Robot{Name: "ci", Until: p.clock.now().Add(time.Hour), Description: "builds"}, p.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		o.Grants = []access.Grant{grant("robot:ci", "push", "apps/**")}
	})
	return p, secret
}

func TestRobots(t *testing.T) {
	p, secret := robotPlace(t)
	caller := p.must(t, basic("robot+ci", secret))
	if caller.Name != "robot:ci" || p.may(t, caller, "apps/web") != "pull,push,sign" {
		t.Errorf("got %+v", caller)
	}
	for law, r := range map[string][2]string{
		"a wrong secret": {"robot+ci", secret + "x"}, "no secret": {"robot+ci", ""}, "another robot": {"robot+cd", secret}, "no name": {"robot+", secret},
		"the name without what marks it": {"ci", secret}, "a colon in the mark": {"robot:ci", secret},
	} {
		if caller, err := p.Identify(basic(r[0], r[1])); status(err) != 401 {
			t.Errorf("%s: got %+v, %v", law, caller, err)
		}
	}
	p.clock.pass(time.Hour)
	if _, err := p.Identify(basic("robot+ci", secret)); status(err) != 401 {
		t.Errorf("when its time is over: got %v", err)
	}
}

func TestRobotsFileIsWrittenAsAWhole(t *testing.T) {
	p, secret := robotPlace(t)
	file, now := filepath.Join(p.dir, "robots.yaml"), p.clock.now()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", info.Mode(), err)
	}
	content, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(content), secret) {
		t.Errorf("the file holds the secret: %v", err)
	}
	until := now.Add(2 * time.Hour)
	if _, err := access.AddRobot(file, access.Robot{Name: "ci", Until: until}, now); !errors.Is(err, access.ErrRobotExists) {
		t.Errorf("a name twice: got %v", err)
	}
	if _, err := access.AddRobot(file, access.Robot{Name: "a b", Until: until}, now); err == nil {
		t.Error("a name with a space is taken")
	}
	var adding sync.WaitGroup
	for _, name := range strings.Split("abcdefgh", "") { // at once; none is lost
		adding.Go(func() {
			if _, err := access.AddRobot(file, access.Robot{Name: name, Until: until}, now); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if err := access.RevokeRobot(file, "a"); err != nil {
		t.Error(err)
	}
	if err := access.RevokeRobot(file, "a"); !errors.Is(err, access.ErrNoRobot) {
		t.Errorf("revoked twice: got %v", err)
	}
	list, err := access.ReadRobots(file)
	if err != nil || len(list) != 8 || list[0].Name != "ci" || list[0].Description != "builds" || !list[0].Until.Equal(now.Add(time.Hour)) {
		t.Errorf("got %+v, %v", list, err)
	}
	again, err := access.AddRobot(file, access.Robot{Name: "ci", Until: now.Add(4 * time.Hour)}, now.Add(2*time.Hour))
	if err != nil || again == secret {
		t.Errorf("one whose time is over is not replaced: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".robots*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRobotsFileIsReadStrictly(t *testing.T) {
	digits := strings.Repeat("0123456789abcdef", 4)
	for name, text := range map[string]string{
		"an unknown key":   "- {name: a, secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z, admin: true}",
		"a short hash":     "- {name: a, secret_sha256: \"0123\", until: 2030-01-01T00:00:00Z}",
		"no hash":          "- {name: a, until: 2030-01-01T00:00:00Z}",
		"no end":           "- {name: a, secret_sha256: " + digits + "}",
		"a name twice":     "- {name: a, secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z}\n- {name: a, secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z}",
		"no list":          "robots: []",
		"two documents":    "[]\n---\n[]",
		"a name of nobody": "- {name: \"\", secret_sha256: " + digits + ", until: 2030-01-01T00:00:00Z}",
	} {
		if _, err := tryPlace(t, func(p *place, o *access.Options) { o.RobotsFile = p.write(t, "robots.yaml", text) }); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	newPlace(t, func(p *place, o *access.Options) { o.RobotsFile = p.write(t, "robots.yaml", "") }) // nobody yet
}

func TestFilesOthersMayWriteAreRefused(t *testing.T) {
	_, err := tryPlace(t, func(p *place, o *access.Options) {
		o.RobotsFile = p.write(t, "robots.yaml", "")
		if err := os.Chmod(o.RobotsFile, 0o666); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "may write") {
		t.Errorf("got %v", err)
	}
}
