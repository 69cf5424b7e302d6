package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// reply is a whole answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// wireError is an error as the distribution specification writes it.
type wireError struct {
	Code, Message string
	Detail        json.RawMessage
}

// failure returns the one error of an answer; the zero one when there is not exactly one.
func (r reply) failure() wireError {
	var body struct{ Errors []wireError }
	if err := json.Unmarshal(r.body, &body); err != nil || len(body.Errors) != 1 {
		return wireError{}
	}
	return body.Errors[0]
}

// node is a client of registries. It sends requests as they are: no compression, no redirects followed, which would hide what the proxy
// answers.
type node struct{ *http.Client }

var client = newNode(&http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64})

func newNode(transport http.RoundTripper) node {
	return node{&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       patience,
	}}
}

// open sends a request. header are names and values in turn.
func (n node) open(ctx context.Context, method, url string, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header["Accept"] = oci.ManifestMediaTypes()
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return n.Do(req)
}

// fetch sends a request and reads the whole answer. An answer that is cut short is an error.
func (n node) fetch(ctx context.Context, method, url string, header ...string) (reply, error) {
	resp, err := n.open(ctx, method, url, header...)
	if err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return reply{}, fmt.Errorf("%s %s: after %d bytes: %w", method, url, len(body), err)
	}
	return reply{resp.StatusCode, resp.Header, body}, nil
}

func request(t testing.TB, method, url string, header ...string) reply {
	t.Helper()
	r, err := client.fetch(t.Context(), method, url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask sends a request to the registry listener.
func (s *server) ask(t testing.TB, method, path string, header ...string) reply {
	t.Helper()
	return request(t, method, "http://"+s.registry+path, header...)
}

func (s *server) get(t testing.TB, path string) reply {
	t.Helper()
	return s.ask(t, http.MethodGet, path)
}

// blob asks for a blob of a repository of the upstream.
func (s *server) blob(t testing.TB, repo string, d oci.Digest) reply {
	t.Helper()
	return s.get(t, "/v2/"+host+"/"+repo+"/blobs/"+d.String())
}

// pulled is what a node got.
type pulled struct {
	// digest is what the tag was resolved to.
	digest oci.Digest
	// status is that of the answer to GET of the manifest, message what a refusal said.
	status  int
	message string
	blobs   int
}

// pull fetches an image by tag as containerd does: HEAD of the tag, GET of the manifest by its digest, GET of the config, GET of the
// layers. A refused manifest is an outcome. Whatever is answered with 200 and does not have its digest is an error.
func (n node) pull(ctx context.Context, registry, repo, tag string) (pulled, error) {
	base := "http://" + registry + "/v2/" + host + "/" + repo
	head, err := n.fetch(ctx, http.MethodHead, base+"/manifests/"+tag)
	if err != nil {
		return pulled{}, err
	}
	if head.status != http.StatusOK {
		return pulled{status: head.status}, nil
	}
	p := pulled{digest: oci.Digest(head.header.Get("Docker-Content-Digest"))}
	answer, err := n.fetch(ctx, http.MethodGet, base+"/manifests/"+p.digest.String())
	if err != nil {
		return pulled{}, err
	}
	if p.status = answer.status; p.status != http.StatusOK {
		p.message = answer.failure().Message
		return p, nil
	}
	if got := oci.FromBytes(answer.body); got != p.digest {
		return pulled{}, fmt.Errorf("manifest %s: %w: got %s", p.digest, oci.ErrMismatch, got)
	}
	m, err := oci.ParseManifest(oci.BaseMediaType(answer.header.Get("Content-Type")), answer.body)
	if err != nil {
		return pulled{}, err
	}
	for _, d := range m.Blobs() {
		answer, err := n.fetch(ctx, http.MethodGet, base+"/blobs/"+d.Digest.String())
		if err != nil {
			return pulled{}, err
		}
		if got := oci.FromBytes(answer.body); answer.status != http.StatusOK || got != d.Digest {
			return pulled{}, fmt.Errorf("blob %s: %w: status %d, got %s", d.Digest, oci.ErrMismatch, answer.status, got)
		}
		p.blobs++
	}
	return p, nil
}

// pull pulls an image from s, which must give an answer.
func (s *server) pull(t testing.TB, repo string) pulled {
	t.Helper()
	p, err := client.pull(t.Context(), s.registry, repo, "1.0")
	if err != nil {
		t.Fatalf("pulling %s: %v", repo, err)
	}
	return p
}

// mustPull pulls an image that must be let through.
func (s *server) mustPull(t testing.TB, repo string) pulled {
	t.Helper()
	p := s.pull(t, repo)
	if p.status != http.StatusOK {
		t.Fatalf("pulling %s: status %d: %s, want 200", repo, p.status, p.message)
	}
	return p
}
