package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// pulled is what became of one pull.
type pulled struct {
	allowed bool
	// message is the reason of a denial, or the warning of an admission; empty for neither.
	message string
	blobs   int
	bytes   int64
	took    time.Duration
}

// pulled returns what arrived, for the table.
func (p pulled) pulled() string {
	if !p.allowed {
		return "-"
	}
	return fmt.Sprintf("%d blobs, %.1f MiB", p.blobs, float64(p.bytes)/(1<<20))
}

// reason returns the message a client sees, or else what the image was.
func (p pulled) reason(what string) string {
	if p.message == "" {
		return what
	}
	reason, _, _ := strings.Cut(p.message, " — ")
	return reason
}

// pull fetches an image by tag as a node does: its manifest, of an index the child for linux/amd64, then every blob, each compared with
// its digest. A denial is an outcome; anything else that goes wrong is an error.
func pull(ctx context.Context, proxy, reference string) (pulled, error) {
	began := time.Now()
	name, tag, _ := strings.Cut(reference, ":")
	var p pulled
	m, err := p.manifest(ctx, proxy, name, tag)
	if err == nil && m.IsIndex() {
		for _, child := range m.Manifests {
			if child.Platform != nil && child.Platform.Architecture == "amd64" {
				m, err = p.manifest(ctx, proxy, name, child.Digest.String())
				break
			}
		}
	}
	if errors.Is(err, errRefused) {
		p.took = time.Since(began)
		return p, nil
	}
	if err != nil {
		return pulled{}, err
	}
	for _, d := range m.Blobs() {
		body, _, err := get(ctx, proxy, name+"/blobs/"+d.Digest.String())
		if err != nil {
			return pulled{}, err
		}
		n, err := io.Copy(io.Discard, oci.NewVerifier(body, d))
		if err := errors.Join(err, body.Close()); err != nil {
			return pulled{}, fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		p.blobs, p.bytes = p.blobs+1, p.bytes+n
	}
	p.allowed, p.took = true, time.Since(began)
	return p, nil
}

// errRefused says that the proxy answered 403 and why has been noted.
var errRefused = errors.New("refused")

func (p *pulled) manifest(ctx context.Context, proxy, name, reference string) (oci.Manifest, error) {
	body, header, err := get(ctx, proxy, name+"/manifests/"+reference)
	if denial, ok := errors.AsType[*oci.Error](err); ok {
		p.message = denial.Message
		return oci.Manifest{}, errRefused
	}
	if err != nil {
		return oci.Manifest{}, err
	}
	raw, err := oci.ReadBounded(body, oci.MaxManifestBytes)
	if err := errors.Join(err, body.Close()); err != nil {
		return oci.Manifest{}, err
	}
	if got := oci.FromBytes(raw).String(); got != header.Get("Docker-Content-Digest") {
		return oci.Manifest{}, fmt.Errorf("manifest %s has digest %s", header.Get("Docker-Content-Digest"), got)
	}
	if warning := header.Get("Warning"); warning != "" {
		p.message = strings.Trim(strings.TrimPrefix(warning, "299 - "), `"`)
	}
	return oci.ParseManifest(oci.BaseMediaType(header.Get("Content-Type")), raw)
}

// get asks the proxy. A 403 is an *oci.Error with the message a client would show.
func get(ctx context.Context, proxy, path string) (io.ReadCloser, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+proxy+"/v2/"+path, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header["Accept"] = oci.ManifestMediaTypes()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, resp.Header, nil
	}
	defer func() { _ = resp.Body.Close() }() // only its text is wanted
	text, err := oci.ReadBounded(resp.Body, oci.MaxManifestBytes)
	if err != nil {
		return nil, nil, err
	}
	var answer struct {
		Errors []struct {
			Code    oci.Code
			Message string
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != http.StatusForbidden || len(answer.Errors) != 1 {
		return nil, nil, fmt.Errorf("%s: %s: %.300s", path, resp.Status, text)
	}
	return nil, nil, &oci.Error{Code: answer.Errors[0].Code, Message: answer.Errors[0].Message}
}

// writeFile writes a file only its owner may read.
func writeFile(name string, content []byte) error { return os.WriteFile(name, content, 0o600) }
