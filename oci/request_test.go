package oci

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	hexA    = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestA = Digest("sha256:" + hexA)
	digestB = Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

func parse(t *testing.T, method, target string) (Request, error) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatalf("a server would not have accepted %q: %v", target, err)
	}
	return ParseRequest(method, u)
}

func TestParseRequest(t *testing.T) {
	const get, head, put, post, patch, del = "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"
	for _, tt := range []struct {
		law    string
		method string
		target string
		want   Request
	}{
		{"end-1", get, "/v2/", Request{Kind: KindPing}},
		{"end-1 without its slash", get, "/v2", Request{Kind: KindPing}},
		{"end-1 by a whole URL", get, "http://proxy/v2/", Request{Kind: KindPing}},
		{"end-2", get, "/v2/a/b/blobs/" + string(digestA), Request{Kind: KindBlob, Name: "a/b", Digest: digestA}},
		{"end-2 by HEAD", head, "/v2/a/blobs/" + string(digestA), Request{Kind: KindBlob, Name: "a", Digest: digestA}},
		{"end-3 by tag", get, "/v2/docker.io/library/nginx/manifests/1.27",
			Request{Kind: KindManifest, Name: "docker.io/library/nginx", Tag: "1.27"}},
		{"end-3 by digest", head, "/v2/a/manifests/" + string(digestA), Request{Kind: KindManifest, Name: "a", Digest: digestA}},
		{"end-4a", post, "/v2/a/blobs/uploads/", Request{Kind: KindStartUpload, Name: "a"}},
		{"end-4b", post, "/v2/a/blobs/uploads/?digest=" + string(digestA),
			Request{Kind: KindStartUpload, Name: "a", Digest: digestA}},
		{"end-5", patch, "/v2/a/blobs/uploads/0b5a-_=.?_state=x", Request{Kind: KindUpload, Name: "a", Session: "0b5a-_=."}},
		{"end-6", put, "/v2/a/blobs/uploads/s?digest=" + string(digestA),
			Request{Kind: KindUpload, Name: "a", Session: "s", Digest: digestA}},
		{"end-7", put, "/v2/a/manifests/v1", Request{Kind: KindManifest, Name: "a", Tag: "v1"}},
		{"end-8a", get, "/v2/a/tags/list", Request{Kind: KindTags, Name: "a", N: NoLimit}},
		{"end-8b", get, "/v2/a/tags/list?n=10&last=v1", Request{Kind: KindTags, Name: "a", N: 10, Last: "v1"}},
		{"end-8b for nothing", get, "/v2/a/tags/list?n=0", Request{Kind: KindTags, Name: "a"}},
		{"end-9", del, "/v2/a/manifests/v1", Request{Kind: KindManifest, Name: "a", Tag: "v1"}},
		{"end-10", del, "/v2/a/blobs/" + string(digestA), Request{Kind: KindBlob, Name: "a", Digest: digestA}},
		{"end-11", post, "/v2/a/blobs/uploads/?from=b/c&mount=" + string(digestB),
			Request{Kind: KindStartUpload, Name: "a", Mount: digestB, From: "b/c"}},
		{"end-11 from anywhere", post, "/v2/a/blobs/uploads/?mount=" + string(digestB),
			Request{Kind: KindStartUpload, Name: "a", Mount: digestB}},
		{"end-12a", get, "/v2/a/referrers/" + string(digestA), Request{Kind: KindReferrers, Name: "a", Digest: digestA}},
		{"end-12b", get, "/v2/a/referrers/" + string(digestA) + "?artifactType=application%2Fspdx%2Bjson",
			Request{Kind: KindReferrers, Name: "a", Digest: digestA, ArtifactType: "application/spdx+json"}},
		{"end-13", get, "/v2/a/blobs/uploads/s", Request{Kind: KindUpload, Name: "a", Session: "s"}},
		{"the catalog", get, "/v2/_catalog?n=5&last=a/b", Request{Kind: KindCatalog, N: 5, Last: "a/b"}},
		{"a mirror's ns", get, "/v2/a/manifests/v1?ns=docker.io", Request{Kind: KindManifest, Name: "a", Tag: "v1", NS: "docker.io"}},
		{"an ns in capitals, with a port", get, "/v2/a/manifests/v1?ns=Registry.Example%3A5000",
			Request{Kind: KindManifest, Name: "a", Tag: "v1", NS: "registry.example:5000"}},
		{"a name of the API's own words", get, "/v2/blobs/uploads/manifests/tags/list/manifests/blobs",
			Request{Kind: KindManifest, Name: "blobs/uploads/manifests/tags/list", Tag: "blobs"}},
		{"a name that ends like an endpoint", get, "/v2/a/manifests/tags/list", Request{Kind: KindTags, Name: "a/manifests", N: NoLimit}},
		{"parameters nobody knows", get, "/v2/a/manifests/v1?x=1&x=2", Request{Kind: KindManifest, Name: "a", Tag: "v1"}},
	} {
		t.Run(tt.law, func(t *testing.T) {
			tt.want.Method = tt.method
			got, err := parse(t, tt.method, tt.target)
			if err != nil {
				t.Fatalf("ParseRequest(%s %s): %v", tt.method, tt.target, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseRequest(%s %s) (-want +got):\n%s", tt.method, tt.target, diff)
			}
			again, err := ParseRequest(got.Method, &url.URL{Path: got.URLPath(), RawQuery: got.RawQuery()})
			if err != nil || again != got {
				t.Errorf("what it builds, %s?%s, is read as %+v, %v", got.URLPath(), got.RawQuery(), again, err)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	long := strings.Repeat("a/", 127) + "aa" // 256 bytes
	for _, tt := range []struct {
		law      string
		method   string
		target   string
		wantCode Code
	}{
		{"a path outside the API", "GET", "/", CodeNameUnknown},
		{"the first API", "GET", "/v1/_ping", CodeNameUnknown},
		{"a prefix that only looks like ours", "GET", "/v2x/a/tags/list", CodeNameUnknown},
		{"an escaped prefix", "GET", "/%76%32/a/tags/list", CodeNameUnknown},
		{"a path that climbs into the API", "GET", "/x/../v2/a/manifests/v1", CodeNameUnknown},
		{"a URL with a user", "GET", "http://a:b@proxy/v2/", CodeNameInvalid},
		{"a URL of another scheme", "GET", "ftp://proxy/v2/", CodeNameInvalid},
		{"an authority", "GET", "proxy:443", CodeNameUnknown},
		{"a whole URL that climbs", "GET", "http://proxy/x/../v2/", CodeNameUnknown},
		{"an asterisk", "OPTIONS", "*", CodeNameUnknown},
		{"two slashes before the API", "GET", "//v2/", CodeNameUnknown},
		{"two slashes after it", "GET", "/v2//", CodeNameUnknown},
		{"a host after two slashes", "GET", "//proxy/v2/", CodeNameUnknown},
		{"a fragment", "GET", "/v2/a/manifests/v1#x", CodeNameInvalid},
		{"a semicolon in the query", "GET", "/v2/a/tags/list?n=1;last=b", CodeNameInvalid},
		{"TRACE", "TRACE", "/v2/", CodeUnsupported},
		{"CONNECT", "CONNECT", "/v2/", CodeUnsupported},
		{"OPTIONS", "OPTIONS", "/v2/a/manifests/v1", CodeUnsupported},
		{"a method in small letters", "get", "/v2/", CodeUnsupported},
		{"an unknown endpoint", "GET", "/v2/a/things/v1", CodeNameUnknown},
		{"an endpoint without a name", "GET", "/v2/manifests/v1", CodeNameInvalid},
		{"a name without an endpoint", "GET", "/v2/a", CodeNameUnknown},
		{"a list other than the tags'", "GET", "/v2/a/tags/lists", CodeNameUnknown},
		{"a slash after the tags", "GET", "/v2/a/tags/list/", CodeNameUnknown},
		{"a slash after the catalog", "GET", "/v2/_catalog/", CodeNameUnknown},
		{"uploads of something else", "GET", "/v2/a/things/uploads/s", CodeNameUnknown},
		{"an empty name", "GET", "/v2//manifests/v1", CodeNameInvalid},
		{"an empty component", "GET", "/v2/a//b/manifests/v1", CodeNameInvalid},
		{"a slash before the endpoint", "GET", "/v2/a//manifests/v1", CodeNameInvalid},
		{"a slash before the name", "GET", "/v2//a/manifests/v1", CodeNameInvalid},
		{"a component of one dot", "GET", "/v2/a/./manifests/v1", CodeNameInvalid},
		{"a component of two dots", "GET", "/v2/a/../b/manifests/v1", CodeNameInvalid},
		{"an escaped slash", "GET", "/v2/a%2Fb/manifests/v1", CodeNameInvalid},
		{"an escaped dot", "GET", "/v2/a/%2e%2e/manifests/v1", CodeNameInvalid},
		{"an escape of what needs none", "GET", "/v2/%61/manifests/v1", CodeNameInvalid},
		{"an escape in the endpoint", "GET", "/v2/a/%6danifests/v1", CodeNameInvalid},
		{"an escaped digest", "GET", "/v2/a/manifests/sha256%3A" + hexA, CodeNameInvalid},
		{"a zero byte", "GET", "/v2/a%00/manifests/v1", CodeNameInvalid},
		{"a line break", "GET", "/v2/a/manifests/v1%0d%0aX:y", CodeNameInvalid},
		{"a backslash", "GET", `/v2/a\b/manifests/v1`, CodeNameInvalid},
		{"a parameter in the path", "GET", "/v2/a;b/manifests/v1", CodeNameInvalid},
		{"a host with a colon", "GET", "/v2/registry.example:5000/a/manifests/v1", CodeNameInvalid},
		{"capitals in the name", "GET", "/v2/Library/nginx/manifests/v1", CodeNameInvalid},
		{"letters outside ASCII", "GET", "/v2/ä/manifests/v1", CodeNameInvalid},
		{"a name of 256 bytes", "GET", "/v2/" + long + "/manifests/v1", CodeNameInvalid},
		{"a path of 2 KiB", "GET", "/v2/" + strings.Repeat("a", 2048) + "/manifests/v1", CodeNameInvalid},
		{"a catalog of a repository", "GET", "/v2/_catalog/tags/list", CodeNameInvalid},
		{"no tag", "PUT", "/v2/a/manifests/", CodeTagInvalid},
		{"what is no tag is not there", "GET", "/v2/a/manifests/.x", CodeManifestUnknown},
		{"what is no tag is not there, HEAD", "HEAD", "/v2/a/manifests/-v", CodeManifestUnknown},
		{"a tag of two dots", "PUT", "/v2/a/manifests/..", CodeTagInvalid},
		{"a tag that begins with a dash", "PUT", "/v2/a/manifests/-v", CodeTagInvalid},
		{"a tag of 129 bytes", "PUT", "/v2/a/manifests/" + strings.Repeat("v", 129), CodeTagInvalid},
		{"a tag with a plus sign", "PUT", "/v2/a/manifests/1+2", CodeTagInvalid},
		{"a digest cut short", "GET", "/v2/a/manifests/sha256:aa", CodeDigestInvalid},
		{"a digest in capitals", "GET", "/v2/a/manifests/sha256:" + strings.ToUpper(hexA), CodeDigestInvalid},
		{"a digest with a slash too many", "GET", "/v2/a/blobs/" + string(digestA) + "/", CodeNameUnknown},
		{"a blob by tag", "GET", "/v2/a/blobs/v1", CodeDigestInvalid},
		{"uploads without their slash", "POST", "/v2/a/blobs/uploads", CodeDigestInvalid},
		{"sha512", "GET", "/v2/a/manifests/sha512:" + hexA + hexA, CodeDigestInvalid},
		{"an algorithm nobody knows", "GET", "/v2/a/blobs/md5:" + hexA, CodeDigestInvalid},
		{"a referrer of a tag", "GET", "/v2/a/referrers/v1", CodeDigestInvalid},
		{"an upload that climbs", "PATCH", "/v2/a/blobs/uploads/..", CodeBlobUploadUnknown},
		{"an upload that is finished without a digest", "PUT", "/v2/a/blobs/uploads/s", CodeDigestInvalid},
		{"a mount of nothing", "POST", "/v2/a/blobs/uploads/?mount=&from=b", CodeDigestInvalid},
		{"a mount from a path that climbs", "POST", "/v2/a/blobs/uploads/?mount=" + string(digestA) + "&from=../b", CodeNameInvalid},
		{"an upload of sha512", "POST", "/v2/a/blobs/uploads/?digest=sha512:" + hexA + hexA, CodeDigestInvalid},
		{"a negative page", "GET", "/v2/a/tags/list?n=-1", CodePaginationInvalid},
		{"a page that is no number", "GET", "/v2/a/tags/list?n=1e3", CodePaginationInvalid},
		{"a page that overflows", "GET", "/v2/a/tags/list?n=99999999999999999999", CodePaginationInvalid},
		{"an empty page size", "GET", "/v2/a/tags/list?n=", CodePaginationInvalid},
		{"a last that is no tag", "GET", "/v2/a/tags/list?last=../x", CodeTagInvalid},
		{"a last that is no repository", "GET", "/v2/_catalog?last=../x", CodeNameInvalid},
		{"two ns", "GET", "/v2/a/manifests/v1?ns=docker.io&ns=ghcr.io", CodeNameInvalid},
		{"an empty ns", "GET", "/v2/a/manifests/v1?ns=", CodeNameInvalid},
		{"an ns that is a path", "GET", "/v2/a/manifests/v1?ns=docker.io/library", CodeNameInvalid},
		{"an ns that is a URL", "GET", "/v2/a/manifests/v1?ns=http://docker.io", CodeNameInvalid},
		{"an ns that carries credentials", "GET", "/v2/a/manifests/v1?ns=user@docker.io", CodeNameInvalid},
		{"an ns that could be a path's component", "GET", "/v2/a/manifests/v1?ns=library", CodeNameInvalid},
		{"a query of semicolons", "GET", "/v2/a/manifests/v1?ns=a.b;ns=c.d", CodeNameInvalid},
		{"a broken escape in the query", "GET", "/v2/a/manifests/v1?ns=%zz", CodeNameInvalid},
		{"a query of 8 KiB", "GET", "/v2/a/manifests/v1?x=" + strings.Repeat("x", 8192), CodeNameInvalid},
		{"POST to a manifest", "POST", "/v2/a/manifests/v1", CodeUnsupported},
		{"PUT to a blob", "PUT", "/v2/a/blobs/" + string(digestA), CodeUnsupported},
		{"DELETE of the tags", "DELETE", "/v2/a/tags/list", CodeUnsupported},
		{"GET of a new upload", "GET", "/v2/a/blobs/uploads/", CodeUnsupported},
		{"a method nobody knows", "BREW", "/v2/", CodeUnsupported},
		{"a method in small letters", "get", "/v2/", CodeUnsupported},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := parse(t, tt.method, tt.target)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != tt.wantCode {
				t.Fatalf("ParseRequest(%s %s) = %+v, %v; want %s", tt.method, tt.target, got, err, tt.wantCode)
			}
			if got != (Request{}) {
				t.Errorf("ParseRequest(%s %s) refuses and returns %+v", tt.method, tt.target, got)
			}
		})
	}
}

func TestParseRequestSaysWhatIsWrongWithSHA512(t *testing.T) {
	_, err := parse(t, "GET", "/v2/a/manifests/sha512:"+hexA+hexA)
	e, _ := errors.AsType[*Error](err)
	const want = `the digest algorithm "sha512" is not supported, only sha256`
	if e == nil || e.Message != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestPushes(t *testing.T) {
	for target, want := range map[string]bool{
		"GET /v2/a/manifests/v1": false, "HEAD /v2/a/manifests/v1": false, "PUT /v2/a/manifests/v1": true,
		"DELETE /v2/a/manifests/v1": true, "DELETE /v2/a/blobs/" + string(digestA): true,
		"GET /v2/a/blobs/" + string(digestA): false, "POST /v2/a/blobs/uploads/": true,
		"GET /v2/a/blobs/uploads/s": true, "GET /v2/a/tags/list": false, "GET /v2/": false,
	} {
		method, path, _ := strings.Cut(target, " ")
		q, err := parse(t, method, path)
		if err != nil || q.Pushes() != want {
			t.Errorf("Pushes(%s) = %t, %v; want %t", target, q.Pushes(), err, want)
		}
	}
}

func TestRequestRepository(t *testing.T) {
	hosted := func(path string) bool { return strings.HasPrefix(path, "apps/") }
	for _, tt := range []struct {
		law     string
		request Request
		want    Repository
		wantErr error
	}{
		{"a host in the path decides", Request{Name: "ghcr.io/acme/app"}, Repository{"ghcr.io", "acme/app"}, nil},
		{"a port is written with an underscore", Request{Name: "registry.example_5000/app"}, Repository{"registry.example:5000", "app"}, nil},
		{"localhost is a host", Request{Name: "localhost/app"}, Repository{"localhost", "app"}, nil},
		{"ns decides", Request{Name: "acme/app", NS: "ghcr.io"}, Repository{"ghcr.io", "acme/app"}, nil},
		{"ns wins over a host in the path, which is then part of the name", Request{Name: "quay.io/acme/app", NS: "ghcr.io"},
			Repository{"ghcr.io", "quay.io/acme/app"}, nil},
		{"ns wins over a hosted repository", Request{Name: "apps/web", NS: "ghcr.io"}, Repository{"ghcr.io", "apps/web"}, nil},
		{"a hosted repository", Request{Name: "apps/web"}, Repository{"", "apps/web"}, nil},
		{"anything else is of the default upstream", Request{Name: "acme/app"}, Repository{"docker.io", "acme/app"}, nil},
		{"one word is of the default upstream's library", Request{Name: "nginx"}, Repository{"docker.io", "library/nginx"}, nil},
		{"a lone host is a name", Request{Name: "docker.io"}, Repository{"docker.io", "library/docker.io"}, nil},
		{"a host with two ports is none", Request{Name: "a.b_1_2/app"}, Repository{}, ErrNameInvalid},
		{"a host that ends in a dash is none", Request{Name: "a.b-_1/app"}, Repository{}, ErrNameInvalid},
		{"a name that grows too long", Request{Name: strings.Repeat("a", 250), NS: "registry.example"}, Repository{}, ErrNameInvalid},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := tt.request.Repository("docker.io", hosted)
			if got != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.wantErr)
			}
		})
	}
	t.Run("without a default upstream nothing is made up", func(t *testing.T) {
		got, err := Request{Name: "acme/app"}.Repository("", nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeNameUnknown || got != (Repository{}) {
			t.Errorf("got %+v, %v; want %s", got, err, CodeNameUnknown)
		}
	})
}

func TestKindNamesAreAClosedSet(t *testing.T) {
	seen := map[string]bool{}
	for k := KindUnknown; k <= KindCatalog; k++ {
		if seen[k.String()] {
			t.Errorf("%d is called %s, as another kind is", k, k)
		}
		seen[k.String()] = true
	}
	for _, k := range []Kind{-1, KindCatalog + 1} {
		if got := k.String(); got != "unknown" {
			t.Errorf("Kind(%d) = %q, want unknown", int(k), got)
		}
	}
	if got := (Request{}).URLPath(); got != "" {
		t.Errorf("the zero Request is at %q, want nowhere", got)
	}
}

// FuzzParseRequest holds that whatever is accepted is well formed, is read the same from the URL it builds, and names a repository
// whose name no other repository has.
func FuzzParseRequest(f *testing.F) {
	f.Add("GET", "/v2/", "")
	f.Add("GET", "/v2/docker.io/library/nginx/manifests/latest", "ns=docker.io")
	f.Add("PUT", "/v2/a/blobs/uploads/s", "digest="+string(digestA))
	f.Add("POST", "/v2/a/blobs/uploads/", "mount="+string(digestA)+"&from=b")
	f.Add("GET", "/v2/a/tags/list", "n=1&last=x")
	f.Add("GET", "/v2/a/referrers/"+string(digestA), "artifactType=a%2Fb")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		u.RawQuery = query
		q, err := ParseRequest(method, u)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Status() >= http.StatusInternalServerError || q != (Request{}) {
				t.Fatalf("refused with %+v, %v", q, err)
			}
			return
		}
		checkRequest(t, q, u)
	})
}

func checkRequest(t *testing.T, q Request, u *url.URL) {
	t.Helper()
	again, err := ParseRequest(q.Method, &url.URL{Path: q.URLPath(), RawQuery: q.RawQuery()})
	if err != nil || again != q {
		t.Fatalf("%+v builds %s?%s, which is read as %+v, %v", q, q.URLPath(), q.RawQuery(), again, err)
	}
	if u.EscapedPath() != q.URLPath() && u.Path != "/v2" {
		t.Fatalf("two spellings are accepted: %q and %q", u.EscapedPath(), q.URLPath())
	}
	if strings.ContainsAny(u.EscapedPath(), "%\\;") || slices.Contains(strings.Split(u.Path, "/"), "..") {
		t.Fatalf("%q is accepted", u.Path)
	}
	if q.Name == "" {
		return
	}
	repo, err := q.Repository("docker.io", func(path string) bool { return len(path)%2 == 0 })
	if err != nil {
		return
	}
	// The name is what verdicts go by, so it must lead back to this repository alone.
	upstream, path := SplitUpstream(repo.Escaped())
	if upstream != repo.Upstream || path != repo.Path {
		t.Fatalf("%+v is called %q, which reads as %q and %q", repo, repo.Escaped(), upstream, path)
	}
}
