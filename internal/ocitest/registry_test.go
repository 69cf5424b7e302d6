package ocitest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// start runs a registry for the length of a test.
func start(t *testing.T, opts Options) *Registry {
	t.Helper()
	r, err := StartRegistry(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// answered is what a client sees of an answer.
type answered struct {
	status int
	header http.Header
	body   []byte
}

// ask sends one request without following redirects; it may be called from any goroutine. A request without an answer fails the
// test and has status 0. The header is given as "Key: value".
func ask(t *testing.T, method, url string, body []byte, header ...string) answered {
	t.Helper()
	a, err := try(t, method, url, body, header...)
	if err != nil {
		t.Errorf("%s %s: %v", method, url, err)
	}
	return a
}

// try is ask for requests whose answer may break off; the answer holds what came before.
func try(t *testing.T, method, url string, body []byte, header ...string) (answered, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	for _, h := range header {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Set(key, value)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	b, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, resp.Header, b}, err
}

// code returns the error code in an answer's body, empty if there is none.
func (a answered) code() string {
	var body struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

func (a answered) want(t *testing.T, status int) answered {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

func push(t *testing.T, r *Registry, repo, tag string, img Image) oci.Descriptor {
	t.Helper()
	desc, err := r.PushImage(repo, tag, img)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestPull(t *testing.T) {
	r := start(t, Options{})
	body := []byte("0123456789")
	blob := r.PutBlob("team/app", body)
	raw := []byte(`{"schemaVersion": 2, "not": "re-encoded"}`)
	dgst := r.PutManifest("team/app", "v1", oci.MediaTypeImage, raw)
	manifests, blobs := r.URL()+"/v2/team/app/manifests/", r.URL()+"/v2/team/app/blobs/"

	type facts struct {
		Status                            int
		Type, Digest, Length, ETag, Range string
		Body                              string
	}
	tag := `"` + dgst.String() + `"`
	for _, tt := range []struct {
		name, method, url, header string
		want                      facts
	}{
		{"a manifest by tag", "GET", manifests + "v1", "", facts{200, oci.MediaTypeImage, dgst.String(), "41", tag, "", string(raw)}},
		{"a manifest by digest", "GET", manifests + dgst.String(), "", facts{200, oci.MediaTypeImage, dgst.String(), "41", tag, "", string(raw)}},
		{"HEAD tells the same", "HEAD", manifests + "v1", "", facts{200, oci.MediaTypeImage, dgst.String(), "41", tag, "", ""}},
		{"a manifest the client has", "GET", manifests + "v1", "If-None-Match: " + tag, facts{304, "", dgst.String(), "", tag, "", ""}},
		{"a blob", "GET", blobs + blob.Digest.String(), "",
			facts{200, "application/octet-stream", blob.Digest.String(), "10", `"` + blob.Digest.String() + `"`, "", string(body)}},
		{"the rest of a blob", "GET", blobs + blob.Digest.String(), "Range: bytes=7-",
			facts{206, "application/octet-stream", blob.Digest.String(), "3", `"` + blob.Digest.String() + `"`, "bytes 7-9/10", "789"}},
		{"HEAD of a blob", "HEAD", blobs + blob.Digest.String(), "",
			facts{200, "application/octet-stream", blob.Digest.String(), "10", `"` + blob.Digest.String() + `"`, "", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			if tt.header != "" {
				header = append(header, tt.header)
			}
			a := ask(t, tt.method, tt.url, nil, header...)
			got := facts{
				a.status, a.header.Get("Content-Type"), a.header.Get("Docker-Content-Digest"), a.header.Get("Content-Length"),
				a.header.Get("ETag"), a.header.Get("Content-Range"), string(a.body),
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	r := start(t, Options{})
	desc := push(t, r, "app", "v1", Image{})
	absent := oci.FromBytes([]byte("absent")).String()
	for _, tt := range []struct {
		name, method, path, body string
		wantStatus               int
		wantCode                 oci.Code
	}{
		{"an unknown tag", "GET", "app/manifests/v2", "", 404, oci.CodeManifestUnknown},
		{"an unknown manifest", "GET", "app/manifests/" + absent, "", 404, oci.CodeManifestUnknown},
		{"a manifest of another repository", "GET", "other/manifests/" + desc.Digest.String(), "", 404, oci.CodeManifestUnknown},
		{"an unknown blob", "GET", "app/blobs/" + absent, "", 404, oci.CodeBlobUnknown},
		{"a malformed digest", "GET", "app/blobs/sha256:12", "", 400, oci.CodeDigestInvalid},
		{"a malformed name", "GET", "App/manifests/v1", "", 400, oci.CodeNameInvalid},
		{"tags of an unknown repository", "GET", "none/tags/list", "", 404, oci.CodeNameUnknown},
		{"a page of minus one", "GET", "app/tags/list?n=-1", "", 400, oci.CodePaginationInvalid},
		{"an unknown upload", "PATCH", "app/blobs/uploads/none", "x", 404, oci.CodeBlobUploadUnknown},
		{"a blob under another digest", "POST", "app/blobs/uploads/?digest=" + absent, "present", 400, oci.CodeDigestInvalid},
		{"a manifest under another digest", "PUT", "app/manifests/" + absent, "{}", 400, oci.CodeDigestInvalid},
		{"a manifest that is not JSON", "PUT", "app/manifests/v2", "{", 400, oci.CodeManifestInvalid},
		{"a malformed tag", "PUT", "app/manifests/-", "{}", 400, oci.CodeTagInvalid},
		{"a manifest before its layer", "PUT", "app/manifests/v2", `{"layers":[{"digest":"` + absent + `"}]}`, 404, oci.CodeManifestBlobUnknown},
		{"an index before its child", "PUT", "app/manifests/v2", `{"manifests":[{"digest":"` + absent + `"}]}`, 404, oci.CodeManifestBlobUnknown},
		{"deleting an unknown manifest", "DELETE", "app/manifests/" + absent, "", 404, oci.CodeManifestUnknown},
		{"deleting an unknown blob", "DELETE", "app/blobs/" + absent, "", 404, oci.CodeBlobUnknown},
		{"deleting tags/list", "DELETE", "app/tags/list", "", 405, oci.CodeUnsupported},
		{"a path that is none", "GET", "app/nothing/here", "", 404, oci.CodeNameUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, tt.method, r.URL()+"/v2/"+tt.path, []byte(tt.body), "Content-Type: "+oci.MediaTypeImage)
			if a.status != tt.wantStatus || a.code() != string(tt.wantCode) {
				t.Errorf("got %d %s, want %d %s", a.status, a.code(), tt.wantStatus, tt.wantCode)
			}
		})
	}
	t.Run("a manifest without a media type", func(t *testing.T) {
		if a := ask(t, "PUT", r.URL()+"/v2/app/manifests/v2", []byte("{}")); a.status != 400 || a.code() != string(oci.CodeManifestInvalid) {
			t.Errorf("got %d %s", a.status, a.code())
		}
	})
	t.Run("a refused manifest leaves no repository behind", func(t *testing.T) {
		ask(t, "PUT", r.URL()+"/v2/fresh/manifests/v1", []byte(`{"layers":[{"digest":"`+absent+`"}]}`), "Content-Type: "+oci.MediaTypeImage).want(t, 404)
		ask(t, "GET", r.URL()+"/v2/fresh/tags/list", nil).want(t, 404)
	})
}

func TestPushBlob(t *testing.T) {
	body := []byte("the whole blob")
	dgst := oci.FromBytes(body)
	begin := func(t *testing.T, r *Registry) string {
		return r.URL() + ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/", nil).want(t, 202).header.Get("Location")
	}
	for _, tt := range []struct {
		name string
		push func(t *testing.T, r *Registry) answered
	}{
		{"in one request", func(t *testing.T, r *Registry) answered {
			return ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/?digest="+dgst.String(), body)
		}},
		{"POST, then PUT", func(t *testing.T, r *Registry) answered {
			return ask(t, "PUT", begin(t, r)+"?digest="+dgst.String(), body)
		}},
		{"in chunks", func(t *testing.T, r *Registry) answered {
			location := begin(t, r)
			first := ask(t, "PATCH", location, body[:5], "Content-Range: 0-4").want(t, 202)
			if got, want := first.header.Get("Range"), "0-4"; got != want {
				t.Errorf("range %q, want %q", got, want)
			}
			ask(t, "PATCH", location, body[6:], "Content-Range: 6-13").want(t, 416)
			if got, want := ask(t, "GET", location, nil).want(t, 204).header.Get("Range"), "0-4"; got != want {
				t.Errorf("range after a chunk out of order %q, want %q", got, want)
			}
			ask(t, "PATCH", location, body[5:9], "Content-Range: 5-8").want(t, 202)
			return ask(t, "PUT", location+"?digest="+dgst.String(), body[9:], "Content-Range: 9-13")
		}},
		{"by mount", func(t *testing.T, r *Registry) answered {
			r.PutBlob("source", body)
			return ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/?from=source&mount="+dgst.String(), nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{})
			created := tt.push(t, r).want(t, 201)
			got := ask(t, "GET", r.URL()+created.header.Get("Location"), nil).want(t, 200)
			if !bytes.Equal(got.body, body) {
				t.Errorf("pulled %q, want %q", got.body, body)
			}
		})
	}
	t.Run("a mount of what is not there opens an upload", func(t *testing.T) {
		r := start(t, Options{})
		ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/?from=source&mount="+dgst.String(), nil).want(t, 202)
	})
	t.Run("a cancelled upload is gone", func(t *testing.T) {
		r := start(t, Options{})
		location := begin(t, r)
		ask(t, "DELETE", location, nil).want(t, 204)
		ask(t, "PUT", location+"?digest="+dgst.String(), body).want(t, 404)
	})
	t.Run("an upload belongs to its repository", func(t *testing.T) {
		r := start(t, Options{})
		location := strings.Replace(begin(t, r), "/v2/app/", "/v2/other/", 1)
		ask(t, "PUT", location+"?digest="+dgst.String(), body).want(t, 404)
	})
}

func TestDelete(t *testing.T) {
	r := start(t, Options{})
	desc := push(t, r, "app", "v1", Image{})
	r.Tag("app", "v2", desc.Digest)
	url := r.URL() + "/v2/app/manifests/"
	t.Run("a tag leaves the manifest", func(t *testing.T) {
		ask(t, "DELETE", url+"v1", nil).want(t, 202)
		ask(t, "GET", url+"v1", nil).want(t, 404)
		ask(t, "GET", url+desc.Digest.String(), nil).want(t, 200)
	})
	t.Run("a manifest takes its tags along", func(t *testing.T) {
		ask(t, "DELETE", url+desc.Digest.String(), nil).want(t, 202)
		ask(t, "GET", url+"v2", nil).want(t, 404)
	})
	t.Run("a blob", func(t *testing.T) {
		blob := r.PutBlob("app", []byte("x"))
		ask(t, "DELETE", r.URL()+"/v2/app/blobs/"+blob.Digest.String(), nil).want(t, 202)
		ask(t, "HEAD", r.URL()+"/v2/app/blobs/"+blob.Digest.String(), nil).want(t, 404)
	})
	t.Run("DeleteTag", func(t *testing.T) {
		push(t, r, "app", "v3", Image{})
		r.DeleteTag("app", "v3")
		ask(t, "HEAD", url+"v3", nil).want(t, 404)
	})
}

// pages follows Link headers and returns one body for each page.
func pages(t *testing.T, r *Registry, path string) [][]byte {
	t.Helper()
	var list [][]byte
	for path != "" {
		a := ask(t, "GET", r.URL()+path, nil).want(t, 200)
		list = append(list, a.body)
		link := a.header.Get("Link")
		path = ""
		if target, ok := strings.CutSuffix(link, `>; rel="next"`); ok {
			path = strings.TrimPrefix(target, "<")
		}
		if len(list) > 20 {
			t.Fatal("the pages do not end")
		}
	}
	return list
}

func TestLists(t *testing.T) {
	type list struct {
		Name         string
		Tags         []string
		Repositories []string
	}
	fill := func(r *Registry) {
		dgst := r.PutManifest("app", "", oci.MediaTypeImage, []byte("{}"))
		for _, tag := range []string{"c", "a", "e", "b", "d"} {
			r.Tag("app", tag, dgst)
		}
		r.PutBlob("zoo/keeper", nil)
	}
	for _, tt := range []struct {
		name     string
		pageSize int
		path     string
		want     []list
	}{
		{"all tags, sorted", 0, "/v2/app/tags/list", []list{{Name: "app", Tags: []string{"a", "b", "c", "d", "e"}}}},
		{"pages the client asked for", 0, "/v2/app/tags/list?n=2",
			[]list{{Name: "app", Tags: []string{"a", "b"}}, {Name: "app", Tags: []string{"c", "d"}}, {Name: "app", Tags: []string{"e"}}}},
		{"pages the registry insists on", 3, "/v2/app/tags/list?n=100",
			[]list{{Name: "app", Tags: []string{"a", "b", "c"}}, {Name: "app", Tags: []string{"d", "e"}}}},
		{"after a tag that is not there", 0, "/v2/app/tags/list?last=bb", []list{{Name: "app", Tags: []string{"c", "d", "e"}}}},
		{"none at all", 0, "/v2/app/tags/list?n=0", []list{{Name: "app", Tags: []string{}}}},
		{"a repository without tags", 0, "/v2/zoo/keeper/tags/list", []list{{Name: "zoo/keeper", Tags: []string{}}}},
		{"the catalog, in pages", 1, "/v2/_catalog", []list{{Repositories: []string{"app"}}, {Repositories: []string{"zoo/keeper"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{PageSize: tt.pageSize})
			fill(r)
			var got []list
			for _, body := range pages(t, r, tt.path) {
				var page list
				if err := json.Unmarshal(body, &page); err != nil {
					t.Fatal(err)
				}
				got = append(got, page)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

func TestReferrers(t *testing.T) {
	type index struct {
		SchemaVersion int
		MediaType     string
		Manifests     []oci.Descriptor
	}
	fill := func(t *testing.T, r *Registry) (oci.Digest, []oci.Descriptor) {
		subject := push(t, r, "app", "v1", Image{})
		subject.Platform = nil
		notes := map[string]string{"note": "1"}
		first := push(t, r, "app", "", Image{Subject: &subject, ArtifactType: "text/first", Annotations: notes})
		first.ArtifactType, first.Annotations, first.Platform = "text/first", notes, nil
		second := push(t, r, "app", "", Image{Subject: &subject, ConfigMediaType: "text/second"})
		second.ArtifactType = "text/second"
		return subject.Digest, []oci.Descriptor{first, second}
	}
	for _, tt := range []struct {
		name     string
		pageSize int
		query    string
		want     func(all []oci.Descriptor) [][]oci.Descriptor
		filtered string
	}{
		{"all, the artifact type from the config where the manifest has none", 0, "",
			func(all []oci.Descriptor) [][]oci.Descriptor { return [][]oci.Descriptor{all} }, ""},
		{"of one artifact type", 0, "?artifactType=text/second",
			func(all []oci.Descriptor) [][]oci.Descriptor { return [][]oci.Descriptor{all[1:]} }, "artifactType"},
		{"in pages", 1, "",
			func(all []oci.Descriptor) [][]oci.Descriptor { return [][]oci.Descriptor{all[:1], all[1:]} }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{PageSize: tt.pageSize})
			subject, all := fill(t, r)
			path := "/v2/app/referrers/" + subject.String() + tt.query
			var got [][]oci.Descriptor
			for _, body := range pages(t, r, path) {
				var page index
				if err := json.Unmarshal(body, &page); err != nil {
					t.Fatal(err)
				}
				if page.SchemaVersion != 2 || page.MediaType != oci.MediaTypeIndex {
					t.Errorf("the page is not an index: %s", body)
				}
				got = append(got, page.Manifests)
			}
			if diff := cmp.Diff(got, tt.want(all)); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			a := ask(t, "GET", r.URL()+path, nil)
			if got := a.header.Get("OCI-Filters-Applied"); got != tt.filtered {
				t.Errorf("filters %q, want %q", got, tt.filtered)
			}
		})
	}
	t.Run("an unknown subject has an empty list", func(t *testing.T) {
		r := start(t, Options{})
		a := ask(t, "GET", r.URL()+"/v2/app/referrers/"+oci.FromBytes(nil).String(), nil).want(t, 200)
		if !strings.Contains(string(a.body), `"manifests":[]`) {
			t.Errorf("got %s", a.body)
		}
	})
	for _, tt := range []struct {
		name        string
		noReferrers bool
		wantStatus  int
		wantSubject bool
	}{
		{"OCI-Subject tells the pusher that the API is there", false, 200, true},
		{"a registry without the API says neither", true, 404, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{NoReferrers: tt.noReferrers})
			subject, _ := fill(t, r)
			raw := []byte(`{"schemaVersion":2,"subject":{"digest":"` + subject.String() + `"}}`)
			put := ask(t, "PUT", r.URL()+"/v2/app/manifests/"+oci.FromBytes(raw).String(), raw, "Content-Type: "+oci.MediaTypeImage).want(t, 201)
			if got := put.header.Get("OCI-Subject") == subject.String(); got != tt.wantSubject {
				t.Errorf("OCI-Subject is %q", put.header.Get("OCI-Subject"))
			}
			ask(t, "GET", r.URL()+"/v2/app/referrers/"+subject.String(), nil).want(t, tt.wantStatus)
		})
	}
}

func TestRequests(t *testing.T) {
	r := start(t, Options{})
	desc := push(t, r, "app", "v1", Image{})
	ask(t, "GET", r.URL()+"/v2/", nil)
	ask(t, "HEAD", r.URL()+"/v2/app/manifests/v1?ns=docker.io", nil)
	ask(t, "GET", r.URL()+"/v2/app/manifests/"+desc.Digest.String(), nil)
	ask(t, "GET", r.URL()+"/v2/app/blobs/sha256:0", nil, "Range: bytes=5-", "Authorization: Bearer x")
	ask(t, "GET", r.URL()+"/v2/a/manifests/b/blobs/c/tags/list", nil)
	ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/", nil)

	var got []Request
	for _, c := range r.Requests() {
		if c.Range != "" && c.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("the header is not recorded: %v", c.Header)
		}
		c.Header = nil
		got = append(got, c)
	}
	want := []Request{
		{Method: "GET", Kind: KindPing, Listener: "registry", Status: 200},
		{Method: "HEAD", Kind: KindManifest, Repo: "app", Reference: "v1", Listener: "registry", Status: 200, Query: "ns=docker.io"},
		{Method: "GET", Kind: KindManifest, Repo: "app", Reference: desc.Digest.String(), Listener: "registry", Status: 200},
		{Method: "GET", Kind: KindBlob, Repo: "app", Reference: "sha256:0", Listener: "registry", Status: 400, Range: "bytes=5-"},
		{Method: "GET", Kind: KindTags, Repo: "a/manifests/b/blobs/c", Listener: "registry", Status: 404},
		{Method: "POST", Kind: KindUpload, Repo: "app", Listener: "registry", Status: 202},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	counts := []int{r.Count("GET", KindManifest), r.Count("", KindManifest), r.Count("GET", ""), r.Count("PUT", "")}
	if diff := cmp.Diff(counts, []int{1, 2, 4, 0}); diff != "" {
		t.Errorf("counts (-got +want)\n%s", diff)
	}
	r.ResetRequests()
	if n := len(r.Requests()); n != 0 {
		t.Errorf("%d requests after the reset", n)
	}
}

func FuzzClassify(f *testing.F) {
	for _, path := range []string{"/v2/", "/token", "/v2/a/manifests/v1", "/v2/a/b/blobs/uploads/", "/v2/a/blobs/uploads/upload-1", "/v2/a/tags/list", "/storage/a/b"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		c := Classify(&http.Request{Method: "GET", URL: &url.URL{Path: path}})
		words := map[Kind]string{KindManifest: "/manifests/", KindBlob: "/blobs/", KindUpload: "/blobs/uploads/", KindReferrers: "/referrers/"}
		rebuilt := ""
		switch c.Kind {
		case KindManifest, KindBlob, KindReferrers, KindUpload:
			rebuilt = "/v2/" + c.Repo + words[c.Kind] + c.Reference
		case KindTags:
			rebuilt = "/v2/" + c.Repo + "/tags/list"
		case KindStorage:
			rebuilt = "/storage/" + c.Repo + "/" + c.Reference
		case KindPing, KindCatalog, KindToken, KindOther:
			if c.Repo != "" || c.Reference != "" {
				t.Errorf("%q is %+v", path, c)
			}
			return
		default:
			t.Fatalf("%q has the kind %q", path, c.Kind)
		}
		if c.Kind == KindUpload && c.Reference == "" {
			rebuilt, path = strings.TrimSuffix(rebuilt, "/"), strings.TrimSuffix(path, "/")
		}
		if rebuilt != path || c.Repo == "" || strings.Contains(c.Reference, "/") {
			t.Errorf("%q is %+v, that is %q", path, c, rebuilt)
		}
	})
}

func TestParallelUse(t *testing.T) {
	r := start(t, Options{})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			body := []byte(strconv.Itoa(i))
			r.SetIntercept(func(http.ResponseWriter, *http.Request) bool { return false })
			ask(t, "POST", r.URL()+"/v2/app/blobs/uploads/?digest="+oci.FromBytes(body).String(), body)
			r.PutManifest("app", strconv.Itoa(i), oci.MediaTypeImage, body)
			ask(t, "GET", r.URL()+"/v2/app/tags/list", nil)
			r.Requests()
		})
	}
	group.Wait()
	if got, want := r.Count("POST", KindUpload), 8; got != want {
		t.Errorf("%d uploads, want %d", got, want)
	}
	tags, _ := r.store.tags("app")
	if want := []string{"0", "1", "2", "3", "4", "5", "6", "7"}; !slices.Equal(tags, want) {
		t.Errorf("tags %v, want %v", tags, want)
	}
}

func TestClose(t *testing.T) {
	r := start(t, Options{RedirectBlobs: true, BearerAuth: &Auth{SeparateRealm: true}})
	hosts := []string{r.Host(), r.StorageHost()}
	r.Close()
	r.Close()
	for _, host := range hosts {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+host+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close() // nothing of it is wanted
			t.Errorf("%s still answers", host)
		}
	}
}
