package proxy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/oci"
)

// dock is everything about hosted repositories, in memory. It lets everybody do everything: who may is for the proxy to ask.
type dock struct {
	manifests map[gate.Candidate]oci.Content
	tags      map[string]hosted.Tag // by "repository:tag"
	blobs     map[string]string     // by "repository@digest"
	uploads   map[string]*bytes.Buffer
	failures  map[string]error // what a call, "put apps/web", fails with
	calls     []string         // changes, in order
}

func newDock() *dock {
	return &dock{
		manifests: map[gate.Candidate]oci.Content{}, tags: map[string]hosted.Tag{}, blobs: map[string]string{},
		uploads: map[string]*bytes.Buffer{}, failures: map[string]error{},
	}
}

func (d *dock) hosted() *Hosted {
	return &Hosted{
		Hosts:    func(path string) bool { return strings.HasPrefix(path, "apps/") },
		Contents: d, Catalog: d, Changes: d, Pushed: shown{d}, Uploads: d, Sessions: d, Blobs: d,
	}
}

func (d *dock) note(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	d.calls = append(d.calls, call)
	return d.failures[call]
}

func (d *dock) Resolve(_ context.Context, repo oci.Repository, tag string) (hosted.Tag, error) {
	t, ok := d.tags[repo.String()+":"+tag]
	if !ok {
		return hosted.Tag{}, oci.ErrNotFound
	}
	return t, nil
}

func (d *dock) Stat(_ context.Context, repo oci.Repository, digest oci.Digest) (oci.Descriptor, error) {
	content, ok := d.manifests[gate.Candidate{Repository: repo, Digest: digest}]
	if !ok {
		return oci.Descriptor{}, oci.ErrNotFound
	}
	return content.Descriptor(), nil
}

func (d *dock) Tags(_ context.Context, repo oci.Repository, n int, last string, pending bool) ([]string, bool, error) {
	var tags []string
	for name, t := range d.tags {
		if tag, ok := strings.CutPrefix(name, repo.String()+":"); ok && tag > last && (pending || t.Served.Digest != "") {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags[:min(n, len(tags))], len(tags) > n, nil
}

func (d *dock) Repositories(context.Context) ([]oci.Repository, error) {
	var all []oci.Repository
	for c := range d.manifests {
		all = append(all, c.Repository)
	}
	slices.SortFunc(all, func(a, b oci.Repository) int { return cmp.Compare(a.Path, b.Path) })
	return slices.Compact(all), d.failures["repositories"]
}

func (d *dock) Put(_ context.Context, repo oci.Repository, ref hosted.Reference, content oci.Content, by string) (hosted.Stored, error) {
	if err := d.note("put %s", repo); err != nil {
		return hosted.Stored{}, err
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return hosted.Stored{}, err
	}
	d.calls[len(d.calls)-1] += " by " + by
	c := gate.Candidate{Repository: repo, Digest: content.Digest}
	d.manifests[c] = content
	if ref.Tag != "" {
		name := repo.String() + ":" + ref.Tag
		d.tags[name] = hosted.Tag{Pushed: content.Descriptor(), Served: d.tags[name].Served}
	}
	stored := hosted.Stored{Descriptor: content.Descriptor()}
	if m.Subject != nil {
		stored.Subject = m.Subject.Digest
	}
	return stored, nil
}

func (d *dock) DeleteTag(_ context.Context, repo oci.Repository, tag, by string) error {
	return d.note("delete %s:%s by %s", repo, tag, by)
}

func (d *dock) DeleteManifest(_ context.Context, repo oci.Repository, digest oci.Digest, by string) error {
	return d.note("delete %s@%s by %s", repo, digest, by)
}

func (d *dock) DeleteBlob(_ context.Context, repo oci.Repository, digest oci.Digest) error {
	return d.note("delete blob %s@%s", repo, digest)
}

func (d *dock) Mount(_ context.Context, repo oci.Repository, from gate.Candidate, digest oci.Digest) error {
	return d.note("mount %s@%s from %s", repo, digest, from.Repository)
}

func (d *dock) Start(context.Context, oci.Repository) (string, error) {
	session := fmt.Sprint("s", len(d.uploads))
	d.uploads[session] = &bytes.Buffer{}
	return session, d.failures["start"]
}

func (d *dock) Progress(ctx context.Context, repo oci.Repository, session string) (int64, error) {
	return d.Append(ctx, repo, session, Anywhere, strings.NewReader(""))
}

func (d *dock) Append(_ context.Context, _ oci.Repository, session string, at int64, body io.Reader) (int64, error) {
	upload, ok := d.uploads[session]
	if !ok {
		return 0, &oci.Error{Code: oci.CodeBlobUploadUnknown, Message: "there is no such upload"}
	}
	if at != Anywhere && at != int64(upload.Len()) {
		return int64(upload.Len()), &oci.Error{Code: oci.CodeRangeInvalid, Message: "the upload does not end there"}
	}
	_, err := io.Copy(upload, body)
	return int64(upload.Len()), err
}

func (d *dock) Finish(ctx context.Context, repo oci.Repository, session string, at int64, body io.Reader, want oci.Digest) (int64, error) {
	end, err := d.Append(ctx, repo, session, at, body)
	if err != nil {
		return end, err
	}
	if oci.FromBytes(d.uploads[session].Bytes()) != want {
		return 0, &oci.Error{Code: oci.CodeDigestInvalid, Message: "it is another blob"}
	}
	d.blobs[repo.String()+"@"+want.String()] = d.uploads[session].String()
	delete(d.uploads, session)
	return end, nil
}

func (d *dock) Cancel(_ context.Context, _ oci.Repository, session string) error {
	if _, ok := d.uploads[session]; !ok {
		return &oci.Error{Code: oci.CodeBlobUploadUnknown, Message: "there is no such upload"}
	}
	delete(d.uploads, session)
	return nil
}

// shown is the Pushed of a dock.
type shown struct{ d *dock }

func (s shown) Manifest(_ context.Context, c gate.Candidate) (oci.Content, error) {
	content, ok := s.d.manifests[c]
	if !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	return content, nil
}

func (s shown) Blob(_ context.Context, repo oci.Repository, d oci.Digest) (io.ReadCloser, int64, error) {
	blob, ok := s.d.blobs[repo.String()+"@"+d.String()]
	if !ok {
		return nil, 0, oci.ErrBlobUnknown
	}
	return io.NopCloser(strings.NewReader(blob)), int64(len(blob)), nil
}

// web and api are hosted repositories.
var (
	web = oci.Repository{Path: "apps/web"}
	api = oci.Repository{Path: "apps/api"}
)

// withDock has f host repositories: those of ci, which pushes and deletes, signer, which signs, and reader, which pulls from web alone.
func withDock(f *fixture) *dock {
	d := newDock()
	f.proxy.o.Hosted = d.hosted()
	f.proxy.o.Hosted.Lists = func(caller access.Caller, repo oci.Repository) bool { return f.door.May(caller, access.Pull, repo) }
	f.door.challenge = `Bearer realm="https://tide.example/token"`
	f.door.rights = map[string][]access.Action{
		"user:ci **": {access.Pull, access.Push, access.Delete}, "user:signer **": {access.Pull, access.Sign},
		"user:reader apps/web": {access.Pull}, "user:reader docker.io/library/app": {access.Pull},
	}
	return d
}

// pushed adds an image to a hosted repository, under a tag if there is one, of which nothing has been decided.
func (d *dock) pushed(f *fixture, repo oci.Repository, tag, marker string) gate.Candidate {
	c := f.image(repo, tag, marker)
	content := f.manifests[c]
	d.manifests[c] = content
	for _, blob := range []string{"{\"config\":\"" + marker + "\"}", "layer of " + marker} {
		d.blobs[repo.String()+"@"+oci.FromBytes([]byte(blob)).String()] = blob
	}
	if tag != "" {
		name := repo.String() + ":" + tag
		d.tags[name] = hosted.Tag{Pushed: content.Descriptor(), Served: d.tags[name].Served}
	}
	return c
}

// serve has a tag served as it stands.
func (d *dock) serve(repo oci.Repository, tag string) {
	t := d.tags[repo.String()+":"+tag]
	d.tags[repo.String()+":"+tag] = hosted.Tag{Pushed: t.Pushed, Served: t.Pushed}
}
