package gate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// configured is clean with another config.
func configured(c gate.ImageConfig) gate.Evidence {
	e := clean()
	e.Config = &c
	return e
}

// installed is clean with packages.
func installed(packages ...gate.Package) gate.Evidence {
	e := clean()
	for _, p := range packages {
		e.Inventory.Packages = append(e.Inventory.Packages, gate.Found{Package: p, Path: "a/file"})
	}
	return e
}

func builtUpon(os gate.OS, end time.Time) gate.Evidence {
	e := clean()
	e.Inventory.OS, e.EndOfLife = os, end
	return e
}

var (
	xz     = gate.Package{Type: "deb", Name: "liblzma5", Version: "5.6.1-1", Source: "xz-utils", SourceVersion: "5.6.1-1"}
	debian = gate.OS{ID: "debian", Version: "12"}
)

// TestReasonsOfInputs has, for each rule about what an image is, what a person is told; nothing for what passes.
func TestReasonsOfInputs(t *testing.T) {
	image := func(r gate.ImageRule) gate.Policy { return gate.Policy{Image: r} }
	root := image(gate.ImageRule{DenyRootUser: true})
	labels := image(gate.ImageRule{RequireLabels: []gate.LabelPattern{{Name: "source", Value: "https://github.com/acme/*"}}})
	aged := image(gate.ImageRule{MaxBaseAge: 720 * time.Hour})
	packages := func(patterns ...gate.PackagePattern) gate.Policy { return gate.Policy{DenyPackages: patterns} }
	oses := func(r gate.OSRule) gate.Policy { return gate.Policy{OS: &r} }
	licenced := func(r gate.LicenseRule) gate.Policy { return gate.Policy{Licenses: &r} }
	for name, tt := range map[string]struct {
		policy   gate.Policy
		evidence gate.Evidence
		want     []string
	}{
		"no user":           {root, configured(gate.ImageConfig{}), []string{"root-user: it runs as root: its config names no user"}},
		"root":              {root, configured(gate.ImageConfig{User: "root"}), []string{`root-user: it runs as root: its user is "root"`}},
		"root with a group": {root, configured(gate.ImageConfig{User: "root:staff"}), []string{`root-user: it runs as root: its user is "root:staff"`}},
		"zero":              {root, configured(gate.ImageConfig{User: "0"}), []string{`root-user: it runs as root: its user is "0"`}},
		"two zeros":         {root, configured(gate.ImageConfig{User: "00:1"}), []string{`root-user: it runs as root: its user is "00:1"`}},
		"a signed zero":     {root, configured(gate.ImageConfig{User: "-0"}), []string{`root-user: it runs as root: its user is "-0"`}},
		"only a group":      {root, configured(gate.ImageConfig{User: ":1000"}), []string{"root-user: it runs as root: its config names no user"}},
		"another user":      {root, configured(gate.ImageConfig{User: "nonroot"}), nil},
		"another number":    {root, configured(gate.ImageConfig{User: "1000:0"}), nil},
		"a number that wraps around": {root, configured(gate.ImageConfig{User: "4294967296"}), []string{
			`hostile-config: hostile config: the user "4294967296" is beyond what there is (CVE-2024-40635)`, `root-user: it runs as root: its user is "4294967296"`,
		}},
		"Windows without a user":         {root, configured(gate.ImageConfig{OS: "windows"}), []string{"root-user: it runs as ContainerAdministrator"}},
		"Windows' administrator":         {root, configured(gate.ImageConfig{OS: "windows", User: `User Manager\ContainerAdministrator`}), []string{"root-user: it runs as ContainerAdministrator"}},
		"root that claims to be Windows": {root, configured(gate.ImageConfig{OS: "windows", User: "0"}), []string{`root-user: it runs as root: its user is "0"`}},
		"another user of Windows":        {root, configured(gate.ImageConfig{OS: "windows", User: "ContainerUser"}), nil},
		"a config that is not known":     {root, func() gate.Evidence { e := clean(); e.Config = nil; return e }(), []string{"root-user: it may run as root: its config could not be read"}},
		"an index has no user":           {root, gate.Evidence{Candidate: clean().Candidate, Manifest: oci.Manifest{MediaType: oci.MediaTypeIndex}}, nil},
		"a chart has no user": {root, func() gate.Evidence {
			e := clean()
			e.Config, e.Manifest.Config.MediaType = nil, "application/vnd.cncf.helm.config.v1+json"
			return e
		}(), nil},
		"a signature has no user": {root, func() gate.Evidence { e := configured(gate.ImageConfig{}); e.OnlyStatements = true; return e }(), nil},

		"a label that is not there": {labels, configured(gate.ImageConfig{User: "1"}), []string{"labels: it has no label source"}},
		"a label with another value": {labels, configured(gate.ImageConfig{Labels: map[string]string{"source": "https://evil.test/acme"}}), []string{
			`labels: its label source is "https://evil.test/acme", not https://github.com/acme/*`,
		}},
		"a label as it should be": {labels, configured(gate.ImageConfig{Labels: map[string]string{"source": "https://github.com/acme/app"}}), nil},

		"a young base": {aged, configured(gate.ImageConfig{Created: noon, History: []gate.BuildStep{{Created: noon.Add(-719 * time.Hour)}}}), nil},
		"an old base under a young image": {aged, configured(gate.ImageConfig{Created: noon, History: []gate.BuildStep{{Created: noon.Add(-720 * time.Hour)}}}), []string{
			"base-age: what it is built upon is from 2026-10-23, more than 720h0m0s ago",
		}},
		"no date": {aged, configured(gate.ImageConfig{}), []string{"base-age: neither it nor what it is built upon has a date"}},
		"the date of builders without one": {aged, configured(gate.ImageConfig{Created: time.Unix(0, 0)}), []string{
			"base-age: neither it nor what it is built upon has a date",
		}},
		"a date to come": {aged, configured(gate.ImageConfig{Created: noon.Add(48 * time.Hour)}), []string{"base-age: it is dated in the future, 2026-11-24"}},

		"a package by name and version": {packages(gate.PackagePattern{Type: "npm", Name: "event-stream", Version: "3.3.6"}), installed(gate.Package{Type: "npm", Name: "event-stream", Version: "3.3.6"}), []string{
			"packages: package npm/event-stream 3.3.6 in a/file is denied by npm/event-stream@3.3.6",
		}},
		"another version of it":       {packages(gate.PackagePattern{Type: "npm", Name: "event-stream", Version: "3.3.6"}), installed(gate.Package{Type: "npm", Name: "event-stream", Version: "3.3.60"}), nil},
		"a package of another kind":   {packages(gate.PackagePattern{Type: "npm", Name: "event-stream", Version: "*"}), installed(gate.Package{Type: "pypi", Name: "event-stream", Version: "1"}), nil},
		"a package of whatever kind":  {packages(gate.PackagePattern{Type: "*", Name: "event-*", Version: "*"}), installed(gate.Package{Type: "pypi", Name: "Event-Stream", Version: "1"}), []string{"packages: package pypi/Event-Stream 1 in a/file is denied by */event-*"}},
		"a package by its source":     {packages(gate.PackagePattern{Type: "deb", Name: "xz-utils", Version: "5.6.*"}), installed(xz), []string{"packages: package deb/liblzma5 5.6.1-1 (of xz-utils 5.6.1-1) in a/file is denied by deb/xz-utils@5.6.*"}},
		"a version without its epoch": {packages(gate.PackagePattern{Type: "rpm", Name: "bind", Version: "9.*"}), installed(gate.Package{Type: "rpm", Name: "bind", Version: "32:9.11-1"}), []string{"packages: package rpm/bind 32:9.11-1 in a/file is denied by rpm/bind@9.*"}},
		"a version without its v":     {packages(gate.PackagePattern{Type: "golang", Name: "example.com/m", Version: "1.2.3"}), installed(gate.Package{Type: "golang", Name: "example.com/m", Version: "v1.2.3"}), []string{"packages: package golang/example.com/m v1.2.3 in a/file is denied by golang/example.com/m@1.2.3"}},
		"PyPI's many names":           {packages(gate.PackagePattern{Type: "pypi", Name: "ruamel.yaml", Version: "*"}), installed(gate.Package{Type: "pypi", Name: "ruamel_yaml", Version: "1"}), []string{"packages: package pypi/ruamel_yaml 1 in a/file is denied by pypi/ruamel.yaml"}},

		"a licence": {licenced(gate.LicenseRule{Deny: []string{"AGPL-3.0-only"}}), installed(gate.Package{Type: "deb", Name: "x", Version: "1", Licenses: []string{"MIT", "AGPL-3+"}}), []string{
			`licenses: licence "MIT AND AGPL-3+" of package deb/x 1 in a/file is not allowed`,
		}},
		"a licence to choose":              {licenced(gate.LicenseRule{Deny: []string{"AGPL-3.0-only"}}), installed(gate.Package{Type: "composer", Name: "x", Version: "1", Licenses: []string{"MIT", "AGPL-3.0+"}}), nil},
		"no licence":                       {licenced(gate.LicenseRule{Deny: []string{"AGPL-3.0-only"}}), installed(xz), nil},
		"no licence where one must be":     {licenced(gate.LicenseRule{DenyUnknown: true}), installed(xz), []string{"licenses: package deb/liblzma5 5.6.1-1 (of xz-utils 5.6.1-1) in a/file states no licence"}},
		"a distribution that is mended":    {oses(gate.OSRule{DenyEndOfLife: true}), builtUpon(debian, noon.Add(time.Nanosecond)), nil},
		"a distribution that is not":       {oses(gate.OSRule{DenyEndOfLife: true}), builtUpon(debian, noon), []string{"end-of-life: debian 12 is no longer mended since 2026-11-22"}},
		"nobody knows":                     {oses(gate.OSRule{DenyEndOfLife: true}), builtUpon(gate.OS{ID: "wolfi"}, time.Time{}), nil},
		"an allowed distribution":          {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "debian", Version: "12"}}}), builtUpon(debian, time.Time{}), nil},
		"by the first part of its version": {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "alpine", Version: "3.1*"}}}), builtUpon(gate.OS{ID: "alpine", Version: "3.19.1"}, time.Time{}), nil},
		"which is a whole part":            {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "debian", Version: "1"}}}), builtUpon(debian, time.Time{}), []string{"os: debian 12 is no distribution the policy allows"}},
		"a distribution without version":   {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "wolfi", Version: "*"}}}), builtUpon(gate.OS{ID: "wolfi"}, time.Time{}), nil},
		"no distribution":                  {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "debian", Version: "*"}}}), clean(), []string{"os: it has no distribution, and the policy allows some only"}},
		"no distribution, allowed":         {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "none", Version: "*"}}}), clean(), nil},
		"a distribution without an ID":     {oses(gate.OSRule{Allow: []gate.OSPattern{{ID: "none", Version: "*"}}}), builtUpon(gate.OS{Name: "Mine"}, time.Time{}), []string{"os: linux is no distribution the policy allows"}},

		"a secret in the config": {gate.Policy{Secrets: &gate.SecretRule{}}, func() gate.Evidence {
			e := clean()
			e.ConfigSecrets = []gate.Secret{{Kind: "GitHub token", Path: "step 2 of the history"}}
			return e
		}(), []string{"secrets: a secret, GitHub token, in step 2 of the history of the config"}},
		"which nobody looks for": {gate.Policy{}, func() gate.Evidence {
			e := clean()
			e.ConfigSecrets = []gate.Secret{{Kind: "GitHub token", Path: "step 2 of the history"}}
			return e
		}(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			tt.policy.Name, tt.policy.Match = "p", []oci.Pattern{pattern(t, "**")}
			decide := func(p gate.Policy, waivers ...gate.Waiver) gate.Verdict {
				return gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}, Waivers: waivers}, tt.evidence, noon)
			}
			v := decide(tt.policy)
			if diff := cmp.Diff(told(v.Reasons), tt.want); diff != "" || v.Allowed() != (len(tt.want) == 0) {
				t.Fatalf("%s, got -, want +:\n%s", v.Decision, diff)
			}
			// What warns says the same, and every rule can be waived, which leaves the others.
			warning := tt.policy
			warning.Mode = gate.Warn
			if w := decide(warning); !w.Allowed() || !slices.Equal(told(w.Warnings), tt.want) {
				t.Errorf("as a warning: %s, %q", w.Decision, told(w.Warnings))
			}
			for _, r := range v.Reasons {
				w := decide(tt.policy, gate.Waiver{Rule: r.Rule, Digest: digestOf("image"), Until: noon.Add(time.Hour)})
				others := slices.DeleteFunc(told(v.Reasons), func(s string) bool { return strings.HasPrefix(s, string(r.Rule)+": ") })
				if diff := cmp.Diff(told(w.Reasons), others); len(others) > 0 && diff != "" || w.Allowed() != (len(others) == 0) {
					t.Errorf("waiving %s: %s, got -, want +:\n%s", r.Rule, w.Decision, diff)
				}
			}
		})
	}
}

// told returns the rules and messages of reasons.
func told(reasons []gate.Reason) (all []string) {
	for _, r := range reasons {
		all = append(all, fmt.Sprintf("%s: %s", r.Rule, r.Message))
	}
	return all
}

// TestHostileConfigs has what is known to break runtimes, and beside it what honest images have that looks alike.
func TestHostileConfigs(t *testing.T) {
	for name, tt := range map[string]struct {
		config gate.ImageConfig
		want   string // of the reason, after the rule; empty for none
	}{
		"a user beyond 31 bits":                  {gate.ImageConfig{User: "2147483648"}, "CVE-2024-40635"},
		"a group beyond 31 bits":                 {gate.ImageConfig{User: "1:99999999999999999999999"}, "CVE-2024-40635"},
		"a negative user":                        {gate.ImageConfig{User: "-1"}, "CVE-2024-40635"},
		"a user with a line break":               {gate.ImageConfig{User: "a\nroot::0:0"}, "control characters"},
		"the largest user there is":              {gate.ImageConfig{User: "2147483647:2147483647"}, ""},
		"a user of Windows":                      {gate.ImageConfig{OS: "windows", User: `NT AUTHORITY\SYSTEM`}, ""},
		"a handle to work in":                    {gate.ImageConfig{WorkingDir: "/proc/self/fd/7"}, "CVE-2024-21626"},
		"a handle in disguise":                   {gate.ImageConfig{WorkingDir: "//proc/./1/root/../cwd"}, "CVE-2024-21626"},
		"a handle by its other name":             {gate.ImageConfig{WorkingDir: "/dev/fd/8"}, "CVE-2024-21626"},
		"a place above":                          {gate.ImageConfig{WorkingDir: "/app/../../etc"}, "climbs"},
		"a relative place":                       {gate.ImageConfig{WorkingDir: "app"}, "not absolute"},
		"a place with a line break":              {gate.ImageConfig{WorkingDir: "/a\nb"}, "CVE-2022-4318"},
		"a place":                                {gate.ImageConfig{WorkingDir: "/process/a..b"}, ""},
		"a place on Windows":                     {gate.ImageConfig{OS: "windows", WorkingDir: `C:\app`}, ""},
		"a handle for what claims to be Windows": {gate.ImageConfig{OS: "windows", WorkingDir: "/proc/self/fd/7"}, "CVE-2024-21626"},
		"a relative place on Windows":            {gate.ImageConfig{OS: "windows", WorkingDir: "app"}, "not absolute"},
		"volumes on Windows":                     {gate.ImageConfig{OS: "windows", Volumes: []string{`C:\data`, `\logs`, "D:"}}, ""},
		"a volume of Windows on Linux":           {gate.ImageConfig{OS: "linux", Volumes: []string{`C:\data`}}, "CVE-2022-23648"},
		"a user of what claims to be Windows":    {gate.ImageConfig{OS: "windows", User: "4294967296"}, "CVE-2024-40635"},
		"a volume that climbs":                   {gate.ImageConfig{Volumes: []string{"/../../etc"}}, "CVE-2022-23648"},
		"a volume over everything":               {gate.ImageConfig{Volumes: []string{"/"}}, "CVE-2022-23648"},
		"a volume over /proc":                    {gate.ImageConfig{Volumes: []string{"/proc/sys"}}, "over /proc"},
		"a volume for systemd":                   {gate.ImageConfig{Volumes: []string{"/sys/fs/cgroup"}}, ""},
		"the runtime's own executable":           {gate.ImageConfig{Entrypoint: []string{"/proc/self/exe"}}, "CVE-2019-5736"},
		"as a command":                           {gate.ImageConfig{Cmd: []string{"/proc/self/fd/6"}}, "CVE-2019-5736"},
		"a command with a NUL":                   {gate.ImageConfig{Cmd: []string{"sh", "-c", "a\x00b"}}, "NUL"},
		"a command of several lines":             {gate.ImageConfig{Cmd: []string{"sh", "-c", "cat /proc/cpuinfo\nexit 0\n"}}, ""},
		"a library by a handle":                  {gate.ImageConfig{Env: []string{"LD_PRELOAD=/proc/self/cwd/poc.so"}}, "CVE-2025-23266"},
		"a library from where one is":            {gate.ImageConfig{Env: []string{"LD_AUDIT=/usr/lib/a.so:./poc.so"}}, "CVE-2025-23266"},
		"libraries from where one is":            {gate.ImageConfig{Env: []string{"LD_LIBRARY_PATH=."}}, "CVE-2025-23266"},
		"an allocator":                           {gate.ImageConfig{Env: []string{"LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"}}, ""},
		"an allocator by its name":               {gate.ImageConfig{Env: []string{"LD_PRELOAD=libjemalloc.so.2"}}, ""},
		"a library path left unset":              {gate.ImageConfig{Env: []string{"LD_LIBRARY_PATH=/usr/local/nvidia/lib:"}}, ""},
		"a function for shells":                  {gate.ImageConfig{Env: []string{"X=() { :;}; id"}}, "CVE-2014-6271"},
		"an exported function":                   {gate.ImageConfig{Env: []string{"BASH_FUNC_module%%=() {  eval x\n}"}}, ""},
		"no variable":                            {gate.ImageConfig{Env: []string{"PATH"}}, "no variable"},
		"a variable without a name":              {gate.ImageConfig{Env: []string{"=x"}}, "no variable"},
		"a variable of Windows":                  {gate.ImageConfig{OS: "windows", Env: []string{`=C:=C:\app`}}, ""},
		"a variable with a NUL":                  {gate.ImageConfig{Env: []string{"A=b\x00c"}}, "control characters"},
		"a variable of several lines":            {gate.ImageConfig{Env: []string{"A=b\nc"}}, ""},
		"a home of several lines":                {gate.ImageConfig{Env: []string{"HOME=/root\nx::0:0::/:/bin/sh"}}, "CVE-2022-4318"},
		"no port":                                {gate.ImageConfig{ExposedPorts: []string{"99999/tcp"}}, "no port"},
		"a port that is text":                    {gate.ImageConfig{ExposedPorts: []string{"http"}}, "no port"},
		"ports":                                  {gate.ImageConfig{ExposedPorts: []string{"53/udp", "8080", "9000-9010/TCP"}}, ""},
		"no signal":                              {gate.ImageConfig{StopSignal: "kill -9 1"}, "no signal"},
		"signals":                                {gate.ImageConfig{StopSignal: "SIGRTMIN+3"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := gate.Policy{Name: "p", Match: []oci.Pattern{pattern(t, "**")}}
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, configured(tt.config), noon)
			if got := strings.Join(told(v.Reasons), "; "); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) || v.Allowed() != (tt.want == "") {
				t.Errorf("%s: %q, want %q", v.Decision, got, tt.want)
			}
			p.Image.UnsafeHostileConfig = true
			if v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, configured(tt.config), noon); !v.Allowed() {
				t.Errorf("not turned off: %q", told(v.Reasons))
			}
		})
	}
}

func TestVerdictsLapseWithInputs(t *testing.T) {
	for name, tt := range map[string]struct {
		policy   gate.Policy
		evidence gate.Evidence
		want     time.Duration
	}{
		"the end of a distribution": {gate.Policy{OS: &gate.OSRule{DenyEndOfLife: true}}, builtUpon(debian, noon.Add(time.Hour)), time.Hour},
		"which nobody asks for":     {gate.Policy{OS: &gate.OSRule{}}, builtUpon(debian, noon.Add(time.Hour)), 24 * time.Hour},
		"the age of a base": {gate.Policy{Image: gate.ImageRule{MaxBaseAge: 10 * time.Hour}}, configured(gate.ImageConfig{
			Created: noon.Add(-2 * time.Hour), History: []gate.BuildStep{{Created: noon.Add(-7 * time.Hour)}, {}},
		}), 3 * time.Hour},
	} {
		tt.policy.Match = []oci.Pattern{pattern(t, "**")}
		v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{tt.policy}}, tt.evidence, noon)
		if got := v.Until.Sub(noon); got != tt.want || !v.Allowed() {
			t.Errorf("%s: %s, lapses after %s, want %s", name, v.Decision, got, tt.want)
		}
	}
}

func TestConfigsThatWereNotExaminedDeny(t *testing.T) {
	e := clean()
	e.ConfigExamined, e.Config = false, nil
	for _, mode := range []gate.Mode{gate.Enforce, gate.Warn} {
		p := gate.Policy{Name: "p", Match: []oci.Pattern{pattern(t, "**")}, Mode: mode}
		waiver := gate.Waiver{Rule: gate.RuleUnexamined, Digest: digestOf("image"), Until: noon.Add(time.Hour)}
		v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}, Waivers: []gate.Waiver{waiver}}, e, noon)
		if v.Allowed() || v.Complete || len(v.Reasons) != 1 || v.Reasons[0].Rule != gate.RuleUnexamined {
			t.Errorf("mode %d: %s, complete %t, %q", mode, v.Decision, v.Complete, told(v.Reasons))
		}
	}
}
