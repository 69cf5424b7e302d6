package e2e_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// reviewed has the site know sam and kim, who review, and reader, who does not. Everybody may pull.
func (s *site) reviewed(t *testing.T) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(everybodysPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var users strings.Builder
	for _, name := range []string{"sam", "kim", "reader"} {
		fmt.Fprintf(&users, "%s:%s\n", name, hash)
	}
	writeFile(t, s.path("htpasswd"), []byte(users.String()))
	review := []string{"review"}
	s.config["access"] = keys{
		"anonymous": []any{keys{"repositories": []string{"**"}, "actions": []string{"pull"}}},
		"basic":     keys{"htpasswd_file": s.path("htpasswd")},
		"grants": []any{
			keys{"who": "user:sam", "repositories": []string{"**"}, "actions": review},
			keys{"who": "user:kim", "repositories": []string{host + "/**"}, "actions": review},
			keys{"who": "user:reader", "repositories": []string{"**"}, "actions": []string{"pull"}},
		},
	}
	s.config["audit"] = keys{"path": s.path("audit.jsonl")}
}

// as returns the admin address with somebody's credentials; without for nobody.
func (s *server) as(name string) string {
	u := url.URL{Scheme: "http", Host: s.admin}
	if name != "" {
		u.User = url.UserPassword(name, everybodysPassword)
	}
	return u.String()
}

// api sends a request to the admin API as somebody.
func (s *server) api(t *testing.T, name, method, path, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.as(name)+"/api/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it has been read, or has failed
	raw, err := oci.ReadBounded(resp.Body, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, raw}
}

// item is what quarantine list prints of an image.
type item struct {
	Repository string
	Digest     oci.Digest
	Rules      []string
	Why        string
	Asked      struct {
		Count int
		Last  struct{ By, Address string }
	}
}

func quarantined(t *testing.T, p *server, as string, flags ...string) []item {
	t.Helper()
	got := tidewaiter(t, append([]string{"quarantine", "list", "--server", p.as(as), "-o", "json"}, flags...)...)
	if got.code != 0 {
		t.Fatalf("quarantine list: code %d: %s", got.code, got.stderr)
	}
	return decode[[]item](t, got.stdout)
}

// granted is what commands print of a waiver.
type granted struct {
	ID, Release, State, Vulnerability, Rule string
}

func TestReview(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.reviewed(t)
	image := s.push(t, "shop/legacy", shop(badLodash)) // unsigned, and vulnerable
	s.pushSigned(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	if got := p.pull(t, "shop/legacy"); got.status != http.StatusForbidden {
		t.Fatalf("got %+v", got)
	}
	ref, byDigest := host+"/shop/legacy:1.0", host+"/shop/legacy@"+image.Digest.String()
	layer := s.parsed(t, "shop/legacy", image.Digest).Layers[0].Digest
	blobPath := "/v2/" + host + "/shop/legacy/blobs/" + layer.String()
	manifest := "/v2/" + host + "/shop/legacy/manifests/" + image.Digest.String()

	t.Run("what is denied is in quarantine, with why and who asked", func(t *testing.T) {
		got := quarantined(t, p, "sam")
		if len(got) != 1 || got[0].Digest != image.Digest || got[0].Repository != host+"/shop/legacy" || !slices.Contains(got[0].Rules, "signatures") ||
			got[0].Asked.Count != 1 || got[0].Asked.Last.By != "anonymous" || got[0].Asked.Last.Address != "127.0.0.1" {
			t.Errorf("got %+v", got)
		}
		if got := quarantined(t, p, "kim", "--rule", "gap"); len(got) != 0 {
			t.Errorf("by a rule it does not break: %+v", got)
		}
		page := p.api(t, "sam", "GET", "../../quarantine", "")
		if page.status != 200 || !bytes.Contains(page.body, []byte(byDigest)) {
			t.Errorf("the page: %d %s", page.status, page.body)
		}
	})
	waiver := `{"vulnerability":"CVE-1","repositories":["` + host + `/shop/legacy"],"for":"1h","reason":"x"}`
	t.Run("whoever only pulls gets nowhere", func(t *testing.T) {
		for _, name := range []string{"reader", ""} {
			want := map[string]int{"reader": 403, "": 401}[name]
			for _, r := range [][3]string{
				{"GET", "quarantine", ""}, {"GET", "quarantine/" + byDigest, ""}, {"GET", "quarantine/" + byDigest + "/manifest", ""},
				{"GET", "quarantine/" + byDigest + "/blobs/" + layer.String(), ""},
				{"POST", "quarantine/" + byDigest + "/release", `{"reason":"x","for":"1h"}`}, {"POST", "quarantine/" + byDigest + "/drop", `{"reason":"x"}`},
				{"GET", "waivers", ""}, {"POST", "waivers", waiver}, {"GET", "waivers/wnone", ""}, {"POST", "waivers/wnone/approve", `{"reason":"x"}`},
				{"DELETE", "waivers/wnone", `{"reason":"x"}`}, {"GET", "../../quarantine", ""}, {"GET", "../../quarantine/" + byDigest, ""}, {"GET", "../../waivers", ""},
			} {
				if got := p.api(t, name, r[0], r[1], r[2]); got.status != want || bytes.Contains(got.body, []byte("unsigned")) {
					t.Errorf("%q %s %s: %d %s, want %d", name, r[0], r[1], got.status, got.body, want)
				}
			}
		}
		if got := p.api(t, "kim", "POST", "waivers", `{"vulnerability":"CVE-1","repositories":["**"],"for":"1h","reason":"x"}`); got.status != 403 {
			t.Errorf("kim waives beyond what is granted: %d %s", got.status, got.body)
		}
		if got := p.get(t, blobPath); got.status != 404 {
			t.Errorf("a blob in quarantine: %d", got.status)
		}
		for _, as := range []string{"sam", "reader"} {
			if got := basicAuth(as, everybodysPassword).ask(t, p, "GET", manifest, ""); got.status != 403 {
				t.Errorf("the manifest by /v2, as %s: %d", as, got.status)
			}
			if got := basicAuth(as, everybodysPassword).ask(t, p, "GET", blobPath, ""); got.status != 404 {
				t.Errorf("a blob by /v2, as %s: %d", as, got.status)
			}
		}
	})
	t.Run("reviewers read what lies there", func(t *testing.T) {
		show := tidewaiter(t, "quarantine", "show", "--server", p.as("sam"), ref)
		if show.code != 0 || !strings.Contains(show.stdout, "unsigned") || !strings.Contains(show.stdout, "asked for") {
			t.Errorf("show: code %d: %s%s", show.code, show.stdout, show.stderr)
		}
		read := tidewaiter(t, "quarantine", "read", "--server", p.as("sam"), byDigest)
		if read.code != 0 || oci.FromBytes([]byte(read.stdout)) != image.Digest {
			t.Errorf("read: code %d: %s%s", read.code, read.stdout, read.stderr)
		}
		within(t, "the layers to be looked into", func() bool {
			return bytes.Contains(p.api(t, "kim", "GET", "quarantine/"+byDigest, "").body, []byte(`"complete":true`))
		})
		got := p.api(t, "kim", "GET", "quarantine/"+byDigest+"/blobs/"+layer.String(), "")
		if got.status != 200 || oci.FromBytes(got.body) != layer || got.header.Get("Content-Type") != "application/octet-stream" ||
			got.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(got.header.Get("Content-Disposition"), "attachment") {
			t.Errorf("a blob: %d %v", got.status, got.header)
		}
		other := p.api(t, "kim", "GET", "quarantine/"+byDigest+"/blobs/"+image.Digest.String(), "")
		if other.status != 404 {
			t.Errorf("a blob that is none of it: %d %s", other.status, other.body)
		}
	})
	t.Run("a release lets it through on the next request, and out of quarantine", func(t *testing.T) {
		got := tidewaiter(t, "quarantine", "release", "--server", p.as("sam"), ref, "--for", "24h", "--reason", "needed today", "--ticket", "OPS-7", "-o", "json")
		if got.code != 0 {
			t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		made := decode[struct{ Waivers []granted }](t, got.stdout).Waivers
		if len(made) != 2 || made[0].Rule != "signatures" || made[1].Vulnerability != "CVE-2019-10744" || made[0].Release != made[1].Release {
			t.Errorf("granted %+v", made)
		}
		p.mustPull(t, "shop/legacy")
		if got := p.get(t, blobPath); got.status != 200 {
			t.Errorf("a blob of it: %d", got.status)
		}
		if got := quarantined(t, p, "sam"); len(got) != 0 {
			t.Errorf("still there: %+v", got)
		}
		verdict := tidewaiter(t, "verdict", "--server", p.as("sam"), ref)
		if verdict.code != 0 || !strings.Contains(verdict.stdout, "user:sam") || !strings.Contains(verdict.stdout, "OPS-7") {
			t.Errorf("the verdict, code %d: %s", verdict.code, verdict.stdout)
		}
		if got := p.api(t, "sam", "GET", "quarantine/"+byDigest+"/manifest", ""); got.status != 409 {
			t.Errorf("what is allowed is read as if it were in quarantine: %d", got.status)
		}
		exported := tidewaiter(t, "waiver", "export", "--server", p.as("kim"), "-o", "openvex", "--quiet")
		if exported.code != 0 || !strings.Contains(exported.stdout, `"affected"`) || !strings.Contains(exported.stdout, "accepted by user:sam") {
			t.Errorf("export: code %d: %s%s", exported.code, exported.stdout, exported.stderr)
		}
	})
	t.Run("revoked, it is refused, also to those who only ask", func(t *testing.T) {
		list := decode[[]granted](t, tidewaiter(t, "waiver", "list", "--server", p.as("kim"), "--state", "live", "-o", "json").stdout)
		if len(list) != 2 {
			t.Fatalf("live: %+v", list)
		}
		if got := tidewaiter(t, "waiver", "revoke", list[0].Release, "--server", p.as("kim"), "--reason", "fixed upstream"); got.code != 0 || strings.Count(got.stdout, "revoked") != 2 {
			t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		for _, method := range []string{"HEAD", "GET"} {
			if got := p.ask(t, method, manifest); got.status != 403 {
				t.Errorf("%s: %d", method, got.status)
			}
		}
		if got := p.get(t, blobPath); got.status != 404 {
			t.Errorf("a blob of it: %d", got.status)
		}
	})
	t.Run("a waiver of one of two reasons leaves the other", func(t *testing.T) {
		got := tidewaiter(t, "waiver", "grant", "--server", p.as("kim"), "--vulnerability", "CVE-2019-10744", "--package", "npm/lodash",
			"--repository", host+"/shop/legacy", "--for", "1h", "--reason", "not reachable")
		if got.code != 0 {
			t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		if got := p.get(t, manifest); got.status != 403 || bytes.Contains(got.body, []byte("CVE-2019-10744")) || !bytes.Contains(got.body, []byte("unsigned")) {
			t.Errorf("got %d %s", got.status, got.body)
		}
	})
	t.Run("dropped, its bytes are gone, and its record is not", func(t *testing.T) {
		if got := tidewaiter(t, "quarantine", "drop", "--server", p.as("sam"), byDigest, "--reason", "nobody needs it", "--quiet"); got.code != 0 {
			t.Fatalf("code %d: %s", got.code, got.stderr)
		}
		if s.stored(image.Digest) {
			t.Error("its manifest is still stored")
		}
		if got := quarantined(t, p, "sam"); len(got) != 0 {
			t.Errorf("still listed: %+v", got)
		}
		show := tidewaiter(t, "quarantine", "show", "--server", p.as("sam"), byDigest)
		if show.code != 0 || !strings.Contains(show.stdout, "dropped by user:sam") || !strings.Contains(show.stdout, "not held") {
			t.Errorf("show: code %d: %s%s", show.code, show.stdout, show.stderr)
		}
		if got := p.pull(t, "shop/legacy"); got.status != 403 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("and all of it is on record", func(t *testing.T) {
		all, _ := s.recorded(t, 0)
		on := " review " + host + "/shop/legacy " + image.Digest.String() + " allowed"
		for _, want := range []string{"user:sam" + on, "user:kim" + on, "user:reader review " + host + "/shop/legacy refused"} {
			if !slices.Contains(all, want) {
				t.Errorf("%q is not on record:\n%s", want, strings.Join(all, "\n"))
			}
		}
		s.verified(t)
	})
}

func TestTwoPeopleRelease(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.reviewed(t)
	s.config["review"] = keys{"second_approver": true}
	s.push(t, "shop/unsigned", shop(goodLodash))
	config := s.write(t)
	p := serve(t, config)
	if got := p.pull(t, "shop/unsigned"); got.status != 403 {
		t.Fatalf("got %+v", got)
	}
	ref := host + "/shop/unsigned:1.0"
	got := tidewaiter(t, "quarantine", "release", "--server", p.as("sam"), ref, "--for", "1h", "--reason", "needed today", "-o", "json")
	released := decode[struct {
		Pending bool
		Waivers []granted
	}](t, got.stdout)
	if got.code != 0 || !released.Pending || !strings.Contains(got.stderr, "waiver approve") {
		t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	id := released.Waivers[0].Release
	if got := p.pull(t, "shop/unsigned"); got.status != 403 {
		t.Errorf("pending, it is let through: %+v", got)
	}
	for name, want := range map[string]int{"sam": 403, "reader": 403, "": 401} {
		if got := p.api(t, name, "POST", "waivers/"+id+"/approve", `{"reason":"x"}`); got.status != want {
			t.Errorf("%q approves: %d %s, want %d", name, got.status, got.body, want)
		}
	}
	p.kill() // what is pending is not lost
	p = serve(t, config)
	if got := p.pull(t, "shop/unsigned"); got.status != 403 {
		t.Errorf("after a restart, it is let through: %+v", got)
	}
	if got := tidewaiter(t, "waiver", "approve", id, "--server", p.as("kim")); got.code != 0 || !strings.Contains(got.stdout, "user:sam and user:kim") {
		t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	p.mustPull(t, "shop/unsigned")
	p.kill()
	p = serve(t, config)
	p.mustPull(t, "shop/unsigned")
	p.stop(t)
	s.verified(t)
}

// within asks until the answer is yes. It only gives up on what hangs.
func within(t *testing.T, what string, until func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !until(); {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: not in time", what)
		}
	}
}

// A waiver that was revoked on one replica stops counting on the other, which nobody tells.
func TestReplicasHearOfRevocations(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.pushSigned(t, "shop/legacy", shop(badLodash))
	config := s.write(t)
	a, b := serve(t, config), serve(t, config)
	refused := func(p *server) bool { return p.get(t, "/v2/"+host+"/shop/legacy/manifests/1.0").status == 403 }
	if !refused(a) || !refused(b) {
		t.Fatal("it is let through")
	}
	got := tidewaiter(t, "quarantine", "release", "--server", a.as(""), host+"/shop/legacy:1.0", "--for", "1h", "--reason", "x", "-o", "json")
	if got.code != 0 {
		t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	within(t, "the release on the other replica", func() bool { return !refused(b) })
	id := decode[struct{ Waivers []granted }](t, got.stdout).Waivers[0].ID
	if got := tidewaiter(t, "waiver", "revoke", id, "--server", b.as(""), "--reason", "x"); got.code != 0 {
		t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	if !refused(b) {
		t.Error("it is let through where it was revoked")
	}
	within(t, "the revocation on the other replica", func() bool { return refused(a) })
	a.stop(t)
	b.stop(t)
}

func TestWhoeverIsNotAskedDecidesOnlyHere(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.push(t, "shop/unsigned", shop(goodLodash))
	p := s.serve(t)
	p.pull(t, "shop/unsigned")
	path := "http://" + p.admin + "/api/v1/quarantine/" + host + "/shop/unsigned:1.0/release"
	var got []int
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Host = "tidewaiter.evil.example" },
		func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.1") },
		func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		func(*http.Request) {},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(`{"reason":"x","for":"1h"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		change(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // the status is all that is asked for
		got = append(got, resp.StatusCode)
	}
	if diff := cmp.Diff(got, []int{403, 403, 415, 200}); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
	p.mustPull(t, "shop/unsigned")
}
