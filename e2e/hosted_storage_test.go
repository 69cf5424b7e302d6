package e2e_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// serveLimited starts a proxy that can write no file beyond so many blocks of 512 bytes, as on a disk that has no more room.
func serveLimited(t *testing.T, config, blocks string) *server {
	t.Helper()
	cmd := command(t, program(t, "sh"), "-c", `ulimit -S -f `+blocks+`; exec "$0" "$@"`, binary, "serve", "--config", config)
	log := newJournal()
	p := &server{process: start(t, cmd, log)}
	at := log.await(t, "starting to serve", func(l line) bool { return l.Msg == "serving" })
	p.registry, p.admin = at.Registry, at.Admin
	return p
}

// TestPushingToAStorageThatTakesNothing: what cannot be kept is not acknowledged, what was acknowledged before is still served, and with
// room again everything goes on where it was.
func TestPushingToAStorageThatTakesNothing(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	config := s.write(t)
	image := s.push(t, "shop/web", shop(goodLodash))
	next := s.push(t, "shop/next", shop(goodLodash, noise(1<<10, 6)))
	const tag, other = "/v2/apps/web/manifests/1.0", "/v2/apps/web/manifests/2.0"
	p := serve(t, config)
	ci := pusher{t, p, "ci"}
	ci.image(s.upstream, "shop/web", image.Digest, "apps/web", "1.0")
	ci.signed(s, "shop/web", image.Digest, "apps/web", s.release)
	pusher{t, p, ""}.must(200, "GET", tag, nil)
	ci.image(s.upstream, "shop/next", next.Digest, "apps/web", "")
	blob := []byte("some blob")
	session := ci.must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
	p.stop(t)

	p = serveLimited(t, config, "0")
	ci = pusher{t, p, "ci"}
	index := `{"schemaVersion":2,"manifests":[]}`
	content, _ := s.upstream.Manifest("shop/next", next.Digest.String())
	for _, tt := range []struct {
		law, method, path, body, mediaType string
	}{
		{"an upload that begins", "POST", "/v2/apps/web/blobs/uploads/", "", ""},
		{"an upload in one request", "POST", "/v2/apps/web/blobs/uploads/?digest=" + oci.FromBytes(blob).String(), string(blob), ""},
		{"an upload that goes on", "PATCH", session, string(blob), ""},
		{"an upload that ends", "PUT", session + "?digest=" + oci.FromBytes(blob).String(), string(blob), ""},
		{"a manifest", "PUT", other, index, oci.MediaTypeIndex},
		{"a tag for what is there", "PUT", other, string(content.Raw), content.MediaType},
		{"a tag that goes", "DELETE", tag, "", ""},
		{"a manifest that goes", "DELETE", "/v2/apps/web/manifests/" + image.Digest.String(), "", ""},
	} {
		r := ci.send(tt.method, tt.path, strings.NewReader(tt.body), "Content-Type", tt.mediaType)
		if r.status != 503 || r.header.Get("Retry-After") == "" || r.failure().Code != "UNAVAILABLE" {
			t.Errorf("%s: got %d %s, want 503", tt.law, r.status, r.body)
		}
	}
	pusher{t, p, ""}.must(200, "GET", tag, nil)
	pusher{t, p, ""}.must(404, "GET", other, nil)
	p.stop(t)

	p = s.serve(t)
	ci = pusher{t, p, "ci"}
	pusher{t, p, ""}.must(200, "GET", tag, nil)
	ci.must(404, "GET", other, nil)
	ci.must(201, "PUT", session+"?digest="+oci.FromBytes(blob).String(), bytes.NewReader(blob))
	ci.must(201, "PUT", other, bytes.NewReader(content.Raw), "Content-Type", content.MediaType)
	ci.must(202, "DELETE", tag, nil)
}

// TestAnUploadThatDoesNotFit goes on with it once there is room.
func TestAnUploadThatDoesNotFit(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	config := s.write(t)
	blob := ocitest.Random(1<<20, 8)
	p := serveLimited(t, config, "128")
	ci := pusher{t, p, "ci"}
	session := ci.must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
	if r := ci.must(503, "PATCH", session, bytes.NewReader(blob)); r.header.Get("Retry-After") == "" {
		t.Errorf("got %v, want it to say when to come back", r.header)
	}
	ci.must(404, "HEAD", "/v2/apps/web/blobs/"+oci.FromBytes(blob).String(), nil)
	p.stop(t)
	p = s.serve(t)
	ci = pusher{t, p, "ci"}
	at := ci.must(204, "GET", session, nil).header.Get("Range")
	if at != "0-65535" {
		t.Errorf("it is said to have %q, want what fitted", at)
	}
	ci.must(201, "PUT", session+"?digest="+oci.FromBytes(blob).String(), bytes.NewReader(blob[1<<16:]))
	if r := ci.must(200, "GET", "/v2/apps/web/blobs/"+oci.FromBytes(blob).String(), nil); !bytes.Equal(r.body, blob) {
		t.Error("it is another blob")
	}
}
