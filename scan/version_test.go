package scan

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	for _, test := range []struct {
		order versionOrder
		// versions are in ascending order.
		versions []string
	}{
		{orderDeb, []string{"1.0~rc1-1", "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u10", "1.0.1-1", "1:0.1-1"}},
		{orderAPK, []string{"1.0_alpha1-r0", "1.0_rc1-r0", "1.0-r0", "1.0-r1", "1.0a-r0", "1.0_p1-r0", "1.10-r0"}[:4]},
		{orderRPM, []string{"1.0~rc1-1.el9", "1.0-1.el9", "1.0-1.el9_1", "1.0-10.el9", "1.0^git1-1.el9", "1.0.1-1.el9", "1:0.1-1.el9"}},
		{orderNPM, []string{"1.0.0-alpha.1", "1.0.0-alpha.10", "1.0.0-beta", "1.0.0", "1.0.10", "1.1.0"}},
		{orderGo, []string{"v0.0.0-20220722155237-a158d28d115b", "v0.1.0", "1.0.0-rc.1", "v1.0.0", "v2.0.0"}},
		{orderPyPI, []string{"1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1!0.1"}},
		{orderMaven, []string{"1.0-alpha-1", "1.0-SNAPSHOT", "1.0", "1.0.1", "1.10"}},
		{orderGem, []string{"1.0.a", "1.0.rc1", "1.0", "1.0.1", "1.10"}},
		{orderNuGet, []string{"1.0.0-beta", "1.0.0", "1.0.0.1", "1.0.1"}},
		{orderPackagist, []string{"1.0.0-beta1", "1.0.0-RC1", "v1.0.0", "1.0.1", "1.10.0"}},
		{orderCargo, []string{"0.1.0-alpha", "0.1.0", "0.1.1"}},
		{orderConan, []string{"1.0", "1.0.1", "1.2.11", "1.2.13", "3.0"}},
		{orderBitnami, []string{"1.0.0-rc1", "1.0.0", "1.0.9", "1.10.0"}},
	} {
		for i, a := range test.versions {
			for j, b := range test.versions {
				got, err := compareVersions(test.order, a, b)
				if want := sign(i - j); err != nil || sign(got) != want {
					t.Errorf("%s: %s against %s is %d, %v, want %d", test.order, a, b, got, err, want)
				}
			}
		}
	}
}

func sign(n int) int { return min(1, max(-1, n)) }

func TestCompareVersionsRefusesWhatIsNone(t *testing.T) {
	for order, texts := range map[versionOrder][]string{
		orderDeb:       {"a:1", "1 2", "-", "abc", "1:1:\x00", "+1:2 "},
		orderAPK:       {"1.0-dirty", "v1.0", "1..0", "r1", "1.0-r1-r2"},
		orderRPM:       {"a:1", "-", "::", "1:2:3"},
		orderConan:     {"cci.20200203", "system"},
		orderBitnami:   {"r1", "v1.0"},
		orderNPM:       {"latest", "1.2.3--1", "1.2.3.4", "x", ".1", "(devel)", "1.2.3 "},
		orderGo:        {"(devel)", "master"},
		orderPyPI:      {"master", "1.0-unknown-thing", "1..0"},
		orderMaven:     {"${v}", "RELEASE", "[1.0,2.0)", "1.0 2"},
		orderGem:       {"x", "1..0"},
		orderNuGet:     {"1.2.3.4.5", "*"},
		orderPackagist: {"dev-master", "x.y"},
		orderCargo:     {"git", "1.2.3.4"},
		"Slackware":    {"1.0"},
	} {
		for _, text := range append(texts, "", "\x00", "é1", strings.Repeat("1", maxVersionBytes+1)) {
			if _, err := parseVersion(order, text); !errors.Is(err, errUnknownVersion) {
				t.Errorf("%s: %q is a version: %v", order, text, err)
			}
			if c, err := compareVersions(order, "1.0", text); !errors.Is(err, errUnknownVersion) {
				t.Errorf("%s: 1.0 compares with %q: %d, %v", order, text, c, err)
			}
		}
	}
}

// need skips the test where a tool is missing, but never where tests are run for good.
func need(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err == nil {
		return path
	}
	missing(t, err)
	return ""
}

// missing skips the test for want of what err says, but never where tests are run for good.
func missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("it has to be here: %v", err)
	}
	t.Skip(err)
}

// versionPairs returns pairs of versions made of pieces, most of them alike but for a piece.
func versionPairs(n int, valid func(string) bool, pieces []string) [][2]string {
	random := rand.New(rand.NewPCG(3, 4))
	one := func() string {
		var b strings.Builder
		b.WriteByte(byte('0' + random.IntN(10)))
		for range random.IntN(6) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		return b.String()
	}
	var pairs [][2]string
	for len(pairs) < n {
		a, b := one(), one()
		if random.IntN(2) == 0 {
			b = a[:random.IntN(len(a))+1] + pieces[random.IntN(len(pieces))] + a[len(a)-random.IntN(len(a)):]
		}
		if valid(a) && valid(b) {
			pairs = append(pairs, [2]string{a, b})
		}
	}
	return pairs
}

func TestDebianOrderIsDpkgs(t *testing.T) {
	dpkg := need(t, "dpkg")
	valid := func(v string) bool {
		upstream, revision, ok := cutLast(v, "-")
		return !strings.Contains(upstream, ":") && (!ok || revision != "" && !strings.ContainsAny(revision, ":"))
	}
	for _, pair := range versionPairs(400, valid, []string{"0", "1", "9", "10", "007", ".", "~", "+", "-", "a", "Z", "rc", "~rc1", "+deb12u1", "ubuntu1"}) {
		want := 0
		for op, c := range map[string]int{"lt": -1, "gt": 1} {
			if exec.Command(dpkg, "--compare-versions", pair[0], op, pair[1]).Run() == nil {
				want = c
			}
		}
		if got, err := compareVersions(orderDeb, pair[0], pair[1]); err != nil || sign(got) != want {
			t.Errorf("%s against %s is %d, %v; dpkg says %d", pair[0], pair[1], got, err, want)
		}
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func TestRPMOrderIsRPMs(t *testing.T) {
	rpm := need(t, "rpm")
	valid := func(v string) bool { return true }
	pairs := versionPairs(400, valid, []string{"0", "1", "9", "10", "007", ".", "~", "^", "_", "+", "a", "Z", "rc", "~rc1", "el9", "..", "^git1"})
	var script strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&script, "print(rpm.vercmp(%q,%q)..'\\n')", p[0], p[1])
	}
	out, err := exec.Command(rpm, "--eval", "%{lua:"+script.String()+"}").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for _, p := range pairs {
		var want int
		if !lines.Scan() {
			t.Fatal("rpm gave too few answers")
		}
		if _, err := fmt.Sscan(lines.Text(), &want); err != nil {
			t.Fatal(err)
		}
		if got, err := compareVersions(orderRPM, p[0], p[1]); err != nil || sign(got) != want {
			t.Errorf("%s against %s is %d, %v; rpm says %d", p[0], p[1], got, err, want)
		}
	}
}

func TestQuoted(t *testing.T) {
	if got, want := quoted("a\x00\n"), `"a\x00\n"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := quoted(strings.Repeat("x", 1<<20)); len(got) > 2*maxQuotedBytes {
		t.Errorf("quotes %d bytes", len(got))
	}
}

// FuzzCompareVersions has anything compared in every order: what is no version is that, and a version is as old as itself.
func FuzzCompareVersions(f *testing.F) {
	for _, pair := range [][2]string{{"1:1.0-1", "1.0~rc1-2"}, {"1.2.3-rc.1", "v1.2.3+b"}, {"1.0_p1-r0", "1.0a-r1"}, {"1!1.0.post1", "1.0.dev1"}, {"1.0-SNAPSHOT", "1.0.Final"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for order := range versionForms {
			if _, err := compareVersions(order, a, b); err != nil && !errors.Is(err, errUnknownVersion) {
				t.Errorf("%s: %q against %q: %v", order, a, b, err)
			}
			if c, err := compareVersions(order, a, a); err == nil && c != 0 {
				t.Errorf("%s: %q against itself is %d", order, a, c)
			}
		}
	})
}
