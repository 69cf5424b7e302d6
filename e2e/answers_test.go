package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// mixedPolicy watches the lab and is strict with everybody else.
const mixedPolicy = `policies:
  - name: observed
    match: {repositories: ["registry.test/lab/**"]}
    mode: warn
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
  - name: production
    match: {repositories: ["**"]}
    on_fail: quarantine
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
`

// answersSite is an installation with an image of each fate.
func answersSite(t *testing.T) (*site, map[string]oci.Descriptor) {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	s.upstreamKeys()["allow"] = []string{"shop/**", "lab/**"}
	writeFile(t, s.path("policy.yaml"), []byte(mixedPolicy))
	return s, map[string]oci.Descriptor{
		"shop/web":        s.pushSigned(t, "shop/web", shop(goodLodash, noise(100_000, 1))),
		"shop/other":      s.pushSigned(t, "shop/other", shop(goodLodash, noise(1000, 2))),
		"shop/vulnerable": s.pushSigned(t, "shop/vulnerable", shop(badLodash)),
		"shop/unsigned":   s.push(t, "shop/unsigned", shop(goodLodash, noise(1000, 3))),
		"lab/experiment":  s.push(t, "lab/experiment", shop(badLodash, noise(1000, 4))),
		"secret/app":      s.pushSigned(t, "secret/app", shop(goodLodash)),
	}
}

func TestAnswersOnManifests(t *testing.T) {
	s, images := answersSite(t)
	p := s.serve(t)
	web := images["shop/web"]
	content, _ := s.upstream.Manifest("shop/web", web.Digest.String())
	const byTag = "/v2/" + host + "/shop/web/manifests/1.0"

	t.Run("HEAD of what nobody has asked for yet tells digest, type and size, allowed or not", func(t *testing.T) {
		for _, repo := range []string{"shop/web", "shop/vulnerable", "shop/unsigned"} {
			got, desc := p.ask(t, http.MethodHead, "/v2/"+host+"/"+repo+"/manifests/1.0"), images[repo]
			want := []string{desc.Digest.String(), desc.MediaType, strconv.FormatInt(desc.Size, 10)}
			if diff := cmp.Diff(values(got, "Docker-Content-Digest", "Content-Type", "Content-Length"), want); got.status != 200 || len(got.body) > 0 || diff != "" {
				t.Errorf("%s: status %d, %d bytes, got -, want +:\n%s", repo, got.status, len(got.body), diff)
			}
		}
	})
	t.Run("GET by tag and by digest gives the very bytes of the upstream", func(t *testing.T) {
		for _, path := range []string{byTag, "/v2/" + host + "/shop/web/manifests/" + web.Digest.String(), "/v2/shop/web/manifests/1.0"} {
			got := p.get(t, path)
			want := []string{web.Digest.String(), web.MediaType, `"` + web.Digest.String() + `"`, ""}
			if diff := cmp.Diff(values(got, "Docker-Content-Digest", "Content-Type", "ETag", "Warning"), want); got.status != 200 || diff != "" {
				t.Errorf("%s: status %d, got -, want +:\n%s", path, got.status, diff)
			}
			if diff := cmp.Diff(string(got.body), string(content.Raw)); diff != "" {
				t.Errorf("%s: body, got -, want +:\n%s", path, diff)
			}
		}
	})
	t.Run("a client that has it already gets 304", func(t *testing.T) {
		if got := p.ask(t, http.MethodGet, byTag, "If-None-Match", `"`+web.Digest.String()+`"`); got.status != 304 || len(got.body) > 0 {
			t.Errorf("status %d with %d bytes, want 304 with none", got.status, len(got.body))
		}
	})
	t.Run("a denial names the policy and the reason, and leads to a page that exists", func(t *testing.T) {
		for repo, reason := range map[string]string{"shop/unsigned": "unsigned: no signature by release", "shop/vulnerable": "CVE-2019-10744 (critical) in lodash 4.17.4"} {
			got := p.get(t, "/v2/"+host+"/"+repo+"/manifests/1.0")
			failure := got.failure()
			if got.status != 403 || failure.Code != "DENIED" || !strings.HasPrefix(failure.Message, "production: "+reason) {
				t.Errorf("%s: status %d: %+v, want 403 DENIED production: %s…", repo, got.status, failure, reason)
			}
			var reasons []struct{ Rule, Message string }
			if err := json.Unmarshal(failure.Detail, &reasons); err != nil || len(reasons) == 0 || reasons[0].Rule == "" {
				t.Errorf("%s: detail %s, %v, want reasons", repo, failure.Detail, err)
			}
			_, page, _ := strings.Cut(failure.Message, " — ")
			if want := "http://" + p.admin + "/images/" + host + "/" + repo + "@" + images[repo].Digest.String(); page != want {
				t.Errorf("%s: leads to %q, want %q", repo, page, want)
			}
			if page := request(t, http.MethodGet, page); page.status != 200 || !strings.Contains(string(page.body), strings.Fields(reason)[0]) {
				t.Errorf("%s: its page: status %d: %s", repo, page.status, page.body)
			}
		}
	})
	t.Run("warn mode lets through and says what would have denied", func(t *testing.T) {
		got := p.get(t, "/v2/"+host+"/lab/experiment/manifests/1.0")
		warning := got.header.Get("Warning")
		if got.status != 200 || !strings.HasPrefix(warning, `299 - "`) || !strings.Contains(warning, "unsigned") || !strings.Contains(warning, "CVE-2019-10744") {
			t.Errorf("status %d, Warning %q, want 200 and both reasons", got.status, warning)
		}
		p.mustPull(t, "lab/experiment")
	})
	t.Run("signatures can be read through the proxy", func(t *testing.T) {
		got := p.get(t, "/v2/"+host+"/shop/web/referrers/"+web.Digest.String())
		var index struct{ Manifests []oci.Descriptor }
		if err := json.Unmarshal(got.body, &index); err != nil || got.status != 200 || len(index.Manifests) != 1 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		signature := index.Manifests[0].Digest
		if got := p.get(t, "/v2/"+host+"/shop/web/manifests/"+signature.String()); got.status != 200 || oci.FromBytes(got.body) != signature {
			t.Errorf("the signature's manifest: status %d: %s", got.status, got.body)
		}
	})
}

// values returns headers of an answer.
func values(r reply, names ...string) []string {
	var all []string
	for _, name := range names {
		all = append(all, r.header.Get(name))
	}
	return all
}

func TestAnswersOnBlobs(t *testing.T) {
	s, images := answersSite(t)
	p := s.serve(t)
	m := s.parsed(t, "shop/web", images["shop/web"].Digest)
	layer := m.Layers[len(m.Layers)-1]
	want, _ := s.upstream.Blob("shop/web", layer.Digest)
	path := "/v2/" + host + "/shop/web/blobs/" + layer.Digest.String()

	t.Run("a blob of an image nobody has been admitted to is not known", func(t *testing.T) {
		if got := p.get(t, path); got.status != 404 || got.failure().Code != "BLOB_UNKNOWN" {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	})
	p.mustPull(t, "shop/web")
	p.mustPull(t, "shop/other")
	etag := `"` + layer.Digest.String() + `"`
	size := strconv.FormatInt(layer.Size, 10)
	for _, tt := range []struct {
		law, method string
		header      []string
		status      int
		body        string
		headers     map[string]string
	}{
		{"GET gives all of it", "GET", nil, 200, string(want),
			map[string]string{"Docker-Content-Digest": layer.Digest.String(), "Content-Length": size, "ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}},
		{"HEAD gives its size", "HEAD", nil, 200, "", map[string]string{"Docker-Content-Digest": layer.Digest.String(), "Content-Length": size, "ETag": etag}},
		{"a range gives part of it", "GET", []string{"Range", "bytes=10-19"}, 206, string(want[10:20]), map[string]string{"Content-Range": "bytes 10-19/" + size, "Content-Length": "10"}},
		{"a pull goes on where it broke off", "GET", []string{"Range", "bytes=50000-"}, 206, string(want[50000:]), map[string]string{"Content-Range": "bytes 50000-" + strconv.FormatInt(layer.Size-1, 10) + "/" + size}},
		{"the end of it", "GET", []string{"Range", "bytes=-5"}, 206, string(want[len(want)-5:]), nil},
		{"a range if it is still the same", "GET", []string{"Range", "bytes=0-3", "If-Range", etag}, 206, string(want[:4]), nil},
		{"a client that has it already gets 304", "GET", []string{"If-None-Match", etag}, 304, "", map[string]string{"ETag": etag}},
		{"several ranges at once are not served in parts", "GET", []string{"Range", "bytes=0-1,5-6"}, 200, string(want), nil},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got := p.ask(t, tt.method, path, tt.header...)
			if got.status != tt.status || string(got.body) != tt.body {
				t.Errorf("status %d with %d bytes, want %d with %d", got.status, len(got.body), tt.status, len(tt.body))
			}
			for name, value := range tt.headers {
				if got := got.header.Get(name); got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
		})
	}
	t.Run("a range that is not in it", func(t *testing.T) {
		if got := p.ask(t, "GET", path, "Range", "bytes="+size+"-"); got.status != 416 || got.failure().Code != "RANGE_INVALID" {
			t.Errorf("status %d: %s, want 416 RANGE_INVALID", got.status, got.body)
		}
	})

	p.pull(t, "shop/vulnerable")
	p.pull(t, "shop/unsigned")
	for law, at := range map[string]struct {
		repo string
		blob oci.Digest
	}{
		"a blob of a denied image":                         {"shop/vulnerable", s.parsed(t, "shop/vulnerable", images["shop/vulnerable"].Digest).Layers[1].Digest},
		"a blob of a denied image that an allowed one has": {"shop/vulnerable", m.Layers[0].Digest},
		"the config of a denied image":                     {"shop/unsigned", s.parsed(t, "shop/unsigned", images["shop/unsigned"].Digest).Config.Digest},
		"a denied image's manifest, asked for as a blob":   {"shop/vulnerable", images["shop/vulnerable"].Digest},
		"an allowed image's manifest, asked for as a blob": {"shop/web", images["shop/web"].Digest},
		"a blob of another repository":                     {"shop/other", layer.Digest},
		"a denied image's blob through an allowed one":     {"shop/web", s.parsed(t, "shop/vulnerable", images["shop/vulnerable"].Digest).Layers[1].Digest},
		"a blob nobody has":                                {"shop/web", oci.FromBytes([]byte("nobody has this"))},
	} {
		t.Run(law+" is not known, to HEAD neither", func(t *testing.T) {
			if got := p.blob(t, at.repo, at.blob); got.status != 404 || got.failure().Code != "BLOB_UNKNOWN" {
				t.Errorf("status %d: %.200s, want 404 BLOB_UNKNOWN", got.status, got.body)
			}
			if got := p.ask(t, "HEAD", "/v2/"+host+"/"+at.repo+"/blobs/"+at.blob.String()); got.status != 404 {
				t.Errorf("HEAD: status %d, want 404", got.status)
			}
		})
	}
}

func TestAnswersOnWhatIsNotServed(t *testing.T) {
	s, images := answersSite(t)
	limited, down, guarded := startRegistry(t, ocitest.Options{}), startRegistry(t, ocitest.Options{}), startRegistry(t, ocitest.Options{BearerAuth: &ocitest.Auth{Username: "u", Password: "p"}})
	limited.SetIntercept(ocitest.Status(http.StatusTooManyRequests, 17*time.Second, "hostile text of an upstream"))
	down.Close()
	for name, r := range map[string]*ocitest.Registry{"limited.test": limited, "down.test": down, "guarded.test": guarded} {
		s.config["upstreams"] = append(s.config["upstreams"].([]any), keys{"host": name, "url": r.URL(), "unsafe_private_addresses": true})
	}
	p := s.serve(t)
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, tt := range []struct {
		law, method, path string
		status            int
		code, message     string
		header, value     string
	}{
		{"an upstream nobody configured", "GET", "/v2/evil.test/app/manifests/1.0", 403, "DENIED", "allowlist", "", ""},
		{"a repository that is not allowed", "GET", "/v2/registry.test/secret/app/manifests/1.0", 403, "DENIED", "secret/app", "", ""},
		{"its blobs", "GET", "/v2/registry.test/secret/app/blobs/" + images["secret/app"].Digest.String(), 403, "DENIED", "secret/app", "", ""},
		{"its tags", "GET", "/v2/registry.test/secret/app/tags/list", 403, "DENIED", "secret/app", "", ""},
		{"a tag the upstream does not have", "GET", "/v2/registry.test/shop/web/manifests/none", 404, "MANIFEST_UNKNOWN", "", "", ""},
		{"a digest the upstream does not have", "GET", "/v2/registry.test/shop/web/manifests/" + digest, 404, "MANIFEST_UNKNOWN", "", "", ""},
		{"a repository the upstream does not have", "GET", "/v2/registry.test/shop/none/manifests/1.0", 404, "MANIFEST_UNKNOWN", "", "", ""},
		{"an upstream that limits our rate", "GET", "/v2/limited.test/app/manifests/1.0", 503, "TOOMANYREQUESTS", "limits the rate", "Retry-After", "17"},
		{"an upstream that is down", "GET", "/v2/down.test/app/manifests/1.0", 503, "UNAVAILABLE", "down.test", "Retry-After", "10"},
		{"an upstream that is down, by digest", "GET", "/v2/down.test/app/manifests/" + digest, 503, "UNAVAILABLE", "", "Retry-After", "10"},
		{"an upstream that wants credentials we have not", "GET", "/v2/guarded.test/app/manifests/1.0", 401, "UNAUTHORIZED", "", "Www-Authenticate", `Basic realm="tidewaiter"`},
		{"a manifest that is pushed", "PUT", "/v2/registry.test/shop/web/manifests/1.0", 405, "UNSUPPORTED", "push to registry.test itself", "Allow", "GET, HEAD"},
		{"an upload that is begun", "POST", "/v2/registry.test/shop/web/blobs/uploads/", 405, "UNSUPPORTED", "", "", ""},
		{"an upload that goes on", "PATCH", "/v2/registry.test/shop/web/blobs/uploads/x", 405, "UNSUPPORTED", "", "", ""},
		{"an upload that ends", "PUT", "/v2/registry.test/shop/web/blobs/uploads/x?digest=" + digest, 405, "UNSUPPORTED", "", "", ""},
		{"a manifest that is deleted", "DELETE", "/v2/registry.test/shop/web/manifests/" + digest, 405, "UNSUPPORTED", "", "", ""},
		{"a blob that is deleted", "DELETE", "/v2/registry.test/shop/web/blobs/" + digest, 405, "UNSUPPORTED", "", "", ""},
		{"a digest that is none", "GET", "/v2/registry.test/shop/web/blobs/sha256:short", 400, "DIGEST_INVALID", "", "", ""},
		{"a tag that is none", "GET", "/v2/registry.test/shop/web/manifests/-x", 404, "MANIFEST_UNKNOWN", "", "", ""},
		{"a name that is none", "GET", "/v2/registry.test/shop/WEB/manifests/1.0", 400, "NAME_INVALID", "", "", ""},
		{"a path that climbs", "GET", "/v2/registry.test/shop/web/../../secret/app/manifests/1.0", 400, "NAME_INVALID", "", "", ""},
		{"a path that hides that it climbs", "GET", "/v2/registry.test/shop/%2e%2e/app/manifests/1.0", 400, "NAME_INVALID", "", "", ""},
		{"two opinions on the namespace", "GET", "/v2/shop/web/manifests/1.0?ns=registry.test&ns=evil.test", 400, "NAME_INVALID", "", "", ""},
		{"what is not the API", "GET", "/healthz", 404, "NAME_UNKNOWN", "", "", ""},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got := p.ask(t, tt.method, tt.path)
			failure := got.failure()
			if got.status != tt.status || failure.Code != tt.code || !strings.Contains(failure.Message, tt.message) {
				t.Errorf("status %d: %+v, want %d %s …%s…", got.status, failure, tt.status, tt.code, tt.message)
			}
			if value := got.header.Get(tt.header); value != tt.value {
				t.Errorf("%s: %q, want %q", tt.header, value, tt.value)
			}
			if strings.Contains(string(got.body), "hostile") {
				t.Errorf("the answer repeats what an upstream wrote: %s", got.body)
			}
		})
	}
	t.Run("the tags are those of the upstream, in pages", func(t *testing.T) {
		for _, tag := range []string{"2.0", "3.0"} {
			s.upstream.Tag("shop/web", tag, images["shop/web"].Digest)
		}
		var got []string
		next := "/v2/" + host + "/shop/web/tags/list?n=2"
		for pages := 0; next != "" && pages < 5; pages++ {
			answer := p.get(t, next)
			var page struct {
				Name string
				Tags []string
			}
			if err := json.Unmarshal(answer.body, &page); err != nil || page.Name != host+"/shop/web" {
				t.Fatalf("status %d: %s, %v", answer.status, answer.body, err)
			}
			got = append(got, page.Tags...)
			next, _, _ = strings.Cut(strings.TrimPrefix(answer.header.Get("Link"), "<"), ">")
		}
		if want := []string{"1.0", "2.0", "3.0"}; !slices.Equal(got, want) {
			t.Errorf("tags %q, want %q", got, want)
		}
	})
}

func TestWithdrawal(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	image := s.pushSigned(t, "shop/web", shop(goodLodash))
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	inForce := func(l line) bool { return l.Msg == "policy in force" }
	const path = "/v2/" + host + "/shop/web/manifests/"

	strict := strings.Replace(strictPolicy, "only_fixable: true", "only_fixable: true, deny: [CVE-2023-45853]", 1)
	p.log.awaitMore(t, "the edited policy", inForce, func() { replaceFile(t, s.path("policy.yaml"), []byte(strict)) })
	t.Run("an edited policy withdraws what it denies: its blobs are not known, GET and HEAD are refused", func(t *testing.T) {
		for _, d := range s.parsed(t, "shop/web", image.Digest).Blobs() { // before anybody has asked for the manifest again
			if got := p.blob(t, "shop/web", d.Digest); got.status != 404 {
				t.Errorf("blob %s: status %d, want 404", d.Digest, got.status)
			}
		}
		for _, reference := range []string{"1.0", image.Digest.String()} {
			if got := p.ask(t, http.MethodHead, path+reference); got.status != 403 {
				t.Errorf("HEAD %s: status %d, want 403: a node that holds it asks no more than that", reference, got.status)
			}
			if got := p.get(t, path+reference); got.status != 403 || !strings.Contains(got.failure().Message, "CVE-2023-45853") {
				t.Errorf("GET %s: status %d: %s", reference, got.status, got.body)
			}
		}
	})
	t.Run("a broken policy changes nothing", func(t *testing.T) {
		p.log.awaitMore(t, "refusing the broken policy", says("policy files refused"), func() { replaceFile(t, s.path("policy.yaml"), []byte("policies: [{name: x}]\n")) })
		if got := p.get(t, path+"1.0"); got.status != 403 {
			t.Errorf("status %d, want 403", got.status)
		}
	})
	t.Run("the old policy, put back, admits again without a byte from the upstream", func(t *testing.T) {
		p.log.awaitMore(t, "the policy from before", inForce, func() { replaceFile(t, s.path("policy.yaml"), []byte(strictPolicy)) })
		before := s.upstream.Count(http.MethodGet, ocitest.KindBlob)
		p.mustPull(t, "shop/web")
		if got := s.upstream.Count(http.MethodGet, ocitest.KindBlob) - before; got > 0 {
			t.Errorf("%d blobs were fetched again", got)
		}
	})
}

func TestTombstones(t *testing.T) {
	s, images := answersSite(t)
	p := s.serve(t)
	const ns = "?ns=" + host
	for repo, reason := range map[string]string{"shop/unsigned": "unsigned: no signature by release", "shop/vulnerable": "CVE-2019-10744"} {
		t.Run("a mirror's client learns of "+repo+" only the digest of its refusal", func(t *testing.T) {
			head := p.ask(t, http.MethodHead, "/v2/"+repo+"/manifests/1.0"+ns)
			told := head.header.Get("Docker-Content-Digest")
			if head.status != 200 || told == images[repo].Digest.String() || oci.BaseMediaType(head.header.Get("Content-Type")) != oci.MediaTypeImage {
				t.Fatalf("HEAD: status %d, %v", head.status, head.header)
			}
			for _, reference := range []string{told, "1.0"} {
				got := p.get(t, "/v2/"+repo+"/manifests/"+reference+ns)
				sum := sha256.Sum256(got.body)
				if got.status != 403 || got.failure().Code != "DENIED" || !strings.Contains(got.failure().Message, reason) {
					t.Errorf("GET %s: status %d: %s", reference, got.status, got.body)
				}
				if d := "sha256:" + hex.EncodeToString(sum[:]); d != told || strconv.Itoa(len(got.body)) != head.header.Get("Content-Length") {
					t.Errorf("GET %s: %d bytes with digest %s, HEAD said %s with %s", reference, len(got.body), d, head.header.Get("Content-Length"), told)
				}
			}
		})
	}
	t.Run("an allowed tag keeps its digest", func(t *testing.T) {
		head := p.ask(t, http.MethodHead, "/v2/shop/web/manifests/1.0"+ns)
		if got := head.header.Get("Docker-Content-Digest"); head.status != 200 || got != images["shop/web"].Digest.String() {
			t.Errorf("status %d, digest %s, want %s", head.status, got, images["shop/web"].Digest)
		}
	})
	t.Run("an unknown tag is unknown, and may be so at the origin too", func(t *testing.T) {
		if got := p.ask(t, http.MethodHead, "/v2/shop/web/manifests/none"+ns); got.status != 404 {
			t.Errorf("status %d, want 404", got.status)
		}
	})
	t.Run("an index with a denied child for a platform in use is not told", func(t *testing.T) {
		good, bad := s.pushSigned(t, "shop/multi", shop(goodLodash, noise(1000, 8))), s.pushSigned(t, "shop/multi", shop(badLodash, noise(1000, 9)))
		good.Platform, bad.Platform = &oci.Platform{OS: "linux", Architecture: "amd64"}, &oci.Platform{OS: "linux", Architecture: "arm64"}
		index, err := s.upstream.PushIndex("shop/multi", "multi", good, bad)
		if err != nil {
			t.Fatal(err)
		}
		s.sign(t, "shop/multi", index.Digest, s.release)
		if got := p.ask(t, http.MethodHead, "/v2/shop/multi/manifests/multi"+ns).header.Get("Docker-Content-Digest"); got == index.Digest.String() || got == "" {
			t.Errorf("HEAD tells %q", got)
		}
		got := p.get(t, "/v2/shop/multi/manifests/multi"+ns)
		if got.status != 403 || !strings.Contains(got.failure().Message, "linux/arm64") || !strings.Contains(got.failure().Message, "CVE-2019-10744") {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		if got := p.get(t, "/v2/"+host+"/shop/multi/manifests/multi"); got.status != 200 {
			t.Errorf("by path: status %d: %s, want 200, its children are judged one by one", got.status, got.body)
		}
	})
}
