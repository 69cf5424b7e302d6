package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// simulated is what the command prints as JSON.
type simulated struct {
	Images, Denied, Admitted, Reworded, Unknown int
	Changes                                     []struct {
		Kind, Repository string
		After            struct {
			Reasons []struct{ Rule, Message, Place string }
		}
	}
}

// grown is a policy with more in it, which a draft may be.
func grown(lines string) string { return strictPolicy + lines }

func TestPolicySimulate(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	web := s.pushSigned(t, "shop/web", shop(goodLodash)).Digest
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	s.push(t, "shop/unsigned", shop(goodLodash, noise(1000, 1)))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	for _, repo := range []string{"shop/vulnerable", "shop/unsigned"} {
		if got := p.pull(t, repo); got.status != http.StatusForbidden {
			t.Fatalf("%s: %+v", repo, got)
		}
	}
	// What stays in quarantine is examined with nobody waiting.
	p.log.await(t, "examining what is unsigned", func(l line) bool {
		return l.Msg == "verdict" && strings.Contains(l.text, "shop/unsigned") && strings.Contains(l.text, `"complete":true`)
	})
	s.takeDown()
	made := p.log.count(func(l line) bool { return l.Msg == "verdict" })
	draft := func(name, content string) string {
		writeFile(t, s.path(name), []byte(content))
		return s.path(name)
	}
	simulate := func(file string, more ...string) []string {
		return append([]string{"policy", "simulate", file, "--server", "http://" + p.admin}, more...)
	}
	small := draft("small.yaml", grown("    image:\n      max_bytes: 10\n"))
	reference := host + "/shop/web@" + web.String()
	for _, i := range []invocation{
		{"the policy in force changes nothing", simulate(s.path("policy.yaml")), 0, []string{"3 images: 0 would be denied, 0 would be allowed, 0 stay"}, nil},
		{"what would be denied, and where that is written", simulate(small), 3,
			[]string{reference, "allow → deny", "production (" + small + ":8): ", "3 images: 1 would be denied"}, nil},
		{"what would be allowed", simulate(draft("lax.yaml", strings.Replace(strictPolicy, "    require: {signatures: {any_of: [release]}}\n", "", 1))), 0,
			[]string{host + "/shop/unsigned@", "deny → allow", "no longer: production (" + s.path("policy.yaml") + ":5): unsigned", "1 would be allowed"}, nil},
		{"what would only be warned of", simulate(draft("warn.yaml", strings.Replace(strictPolicy, "on_fail: quarantine", "mode: warn", 1))), 0,
			[]string{"deny → allow with warnings", "2 would be allowed"}, nil},
		{"a waiver", simulate(draft("waived.yaml", strictPolicy+
			"waivers:\n  - {vulnerability: CVE-2019-10744, repositories: [\""+host+"/shop/vulnerable\"], until: 2099-01-01T00:00:00Z, reason: \"r\", by: alice}\nwaiver_max: 1000000h\n")), 0,
			[]string{host + "/shop/vulnerable@", "1 would be allowed"}, nil},
		{"what nobody has looked for is not guessed", simulate(draft("secrets.yaml", grown("    secrets: deny\n"))), 1,
			[]string{"whether there are secrets in its layers", "are not known"}, []string{"--fetch"}},
		{"other repositories are left out", simulate(small, "--repository", host+"/shop/un*"), 0, []string{"1 images: 0 would be denied"}, nil},
		{"what was pulled lately is looked at", simulate(small, "--since", "1h"), 3, []string{"1 images: 1 would be denied"}, nil},
		{"beside the server, by its configuration", []string{"policy", "simulate", small, "--config", s.path("tidewaiter.yaml")}, 3, []string{"3 images: 1 would be denied"}, nil},
		{"a draft that is wrong", simulate(draft("wrong.yaml", "policies: [{name: x}]\n")), 2, nil, []string{"wrong.yaml:1"}},
		{"a draft that is not there", simulate("/none/draft.yaml"), 2, nil, []string{"/none/draft.yaml"}},
		{"no draft", []string{"policy", "simulate"}, 2, nil, nil},
		{"an authority nobody knows", simulate(draft("corp.yaml", strings.Replace(strictPolicy, "[release]", "[corp]", 1))), 1, nil, []string{"corp"}},
	} {
		i.run(t)
	}
	t.Run("as JSON", func(t *testing.T) {
		got := decode[simulated](t, tidewaiter(t, simulate(small, "-o", "json")...).stdout)
		if got.Images != 3 || got.Denied != 1 || len(got.Changes) != got.Denied+got.Reworded {
			t.Errorf("got %+v", got)
		}
		for _, c := range got.Changes {
			if c.Kind == "denied" && (len(c.After.Reasons) != 1 || c.After.Reasons[0].Rule != "size" || c.After.Reasons[0].Place != "production ("+small+":8)") {
				t.Errorf("got %+v", c)
			}
		}
	})
	t.Run("nothing was asked, decided or changed", func(t *testing.T) {
		if n := len(s.upstream.Requests()); n != 0 {
			t.Errorf("the upstream was asked %d times", n)
		}
		if n := p.log.count(func(l line) bool { return l.Msg == "verdict" }); n != made {
			t.Errorf("%d verdicts were made", n-made)
		}
		if got := p.byDigest(t, http.MethodGet, "shop/web", web); got != http.StatusOK {
			t.Errorf("what would be denied is answered with %d", got)
		}
	})
	t.Run("what is not known is looked for when that is asked for", func(t *testing.T) {
		s.upstream.SetIntercept(nil)
		got := tidewaiter(t, simulate(s.path("secrets.yaml"), "--fetch")...)
		if got.code != 0 || !strings.Contains(got.stdout, "0 are not known") {
			t.Errorf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		if n := p.log.count(func(l line) bool { return l.Msg == "verdict" }); n != made {
			t.Errorf("%d verdicts were made", n-made)
		}
	})
	t.Run("the API takes a file as it is, and nothing a page of another site could send", func(t *testing.T) {
		for mediaType, want := range map[string]int{"application/yaml": 200, "text/plain": 415, "application/x-www-form-urlencoded": 415, "": 415} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.admin+"/api/v1/policy/simulate", strings.NewReader(strictPolicy))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", mediaType)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if _ = resp.Body.Close(); resp.StatusCode != want {
				t.Errorf("%q: status %d, want %d", mediaType, resp.StatusCode, want)
			}
		}
	})
	t.Run("the policies in force are shown", func(t *testing.T) {
		for path, want := range map[string]string{"/api/v1/policy": `"rule":"signatures","line":5`, "/policy": "production"} {
			if got := request(t, http.MethodGet, "http://"+p.admin+path); got.status != 200 || !strings.Contains(string(got.body), want) {
				t.Errorf("%s: status %d: %s", path, got.status, got.body)
			}
		}
	})
	t.Run("a verdict explains its reasons", func(t *testing.T) {
		where := fmt.Sprintf("asked for by production (%s:6)", s.path("policy.yaml"))
		for _, i := range []invocation{{"in words", []string{"verdict", "--server", "http://" + p.admin, host + "/shop/vulnerable:1.0"}, 3, []string{
			where, "to pass: update lodash from " + badLodash + " to 4.17.12 or later",
			"or: tidewaiter waiver grant --vulnerability CVE-2019-10744 --package npm/lodash --repository " + host + "/shop/vulnerable --digest sha256:",
		}, nil}} {
			i.run(t)
		}
	})
}

// TestWarnsBeforeItEnforces takes a policy the way it comes into force: it warns, is simulated, and is enforced.
func TestWarnsBeforeItEnforces(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	warns := strings.Replace(strictPolicy, "on_fail: quarantine", "mode: warn", 1)
	writeFile(t, s.path("policy.yaml"), []byte(warns))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/vulnerable")
	got := p.ask(t, http.MethodGet, "/v2/"+host+"/shop/vulnerable/manifests/1.0")
	if warning := got.header.Get("Warning"); got.status != 200 || !strings.Contains(warning, "CVE-2019-10744") {
		t.Errorf("status %d, Warning %q", got.status, warning)
	}
	if p.log.count(func(l line) bool {
		return l.Msg == "verdict" && strings.Contains(l.text, `"warnings":"production: CVE-2019-10744`)
	}) == 0 {
		t.Error("the log does not say what would have been denied")
	}
	if n := p.metric(t, "tidewaiter_warned_total", `rule="vulnerabilities"`); n != 1 {
		t.Errorf("tidewaiter_warned_total is %v, want 1", n)
	}
	writeFile(t, s.path("draft.yaml"), []byte(strictPolicy))
	for _, i := range []invocation{
		{"its history says so", []string{"verdict", "--server", "http://" + p.admin, "--history", host + "/shop/vulnerable:1.0"}, 0,
			[]string{"ALLOW", "warning   vulnerabilities: CVE-2019-10744", "asked for by production ("}, nil},
		{"a simulation says what enforcing it would do", []string{"policy", "simulate", s.path("draft.yaml"), "--server", "http://" + p.admin}, 3,
			[]string{"allow with warnings → deny", "CVE-2019-10744", "1 images: 1 would be denied"}, nil},
	} {
		i.run(t)
	}
	p.judgedAgain(t, func() { replaceFile(t, s.path("policy.yaml"), []byte(strictPolicy)) })
	if got := p.ask(t, http.MethodGet, "/v2/"+host+"/shop/vulnerable/manifests/1.0"); got.status != http.StatusForbidden {
		t.Errorf("once it is enforced: status %d", got.status)
	}
}
