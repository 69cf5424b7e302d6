package oci

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

var errBroken = errors.New("the connection broke")

func descriptorOf(content string) Descriptor {
	return Descriptor{MediaType: "text/plain", Digest: FromBytes([]byte(content)), Size: int64(len(content))}
}

func TestVerifier(t *testing.T) {
	const content = "the bytes that were announced"
	desc := descriptorOf(content)
	longer, shorter := desc, desc
	longer.Size++
	shorter.Size--
	negative := desc
	negative.Size = -1
	for _, tt := range []struct {
		law     string
		desc    Descriptor
		r       io.Reader
		wantErr error
	}{
		{"content that is what was announced", desc, strings.NewReader(content), nil},
		{"content that comes byte by byte", desc, iotest.OneByteReader(strings.NewReader(content)), nil},
		{"content whose last bytes come with the end", desc, iotest.DataErrReader(strings.NewReader(content)), nil},
		{"nothing, announced as nothing", descriptorOf(""), strings.NewReader(""), nil},
		{"another content of the same size", desc, strings.NewReader(strings.ToUpper(content)), ErrMismatch},
		{"content cut short", desc, strings.NewReader(content[:10]), ErrMismatch},
		{"content with something behind", desc, strings.NewReader(content + "x"), ErrMismatch},
		{"endless content", desc, endless{}, ErrMismatch},
		{"a size that is too large", longer, strings.NewReader(content), ErrMismatch},
		{"a size that is too small", shorter, strings.NewReader(content), ErrMismatch},
		{"a negative size", negative, strings.NewReader(content), ErrMismatch},
		{"a connection that breaks", desc, io.MultiReader(strings.NewReader(content[:10]), iotest.ErrReader(errBroken)), errBroken},
		{"a connection that breaks after the last byte", desc, io.MultiReader(strings.NewReader(content), iotest.ErrReader(errBroken)), errBroken},
		{"an unexpected end", desc, io.MultiReader(strings.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := io.ReadAll(NewVerifier(tt.r, tt.desc))
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("got %v, want %v", err, tt.wantErr)
			}
			if err == nil && FromBytes(got) != tt.desc.Digest {
				t.Errorf("got %q without an error", got)
			}
			if int64(len(got)) > max(tt.desc.Size, 0) {
				t.Errorf("%d bytes came out of %d announced", len(got), tt.desc.Size)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestReadBounded(t *testing.T) {
	for _, tt := range []struct {
		law     string
		r       io.Reader
		limit   int64
		want    string
		wantErr error
	}{
		{"less than the limit", strings.NewReader("abc"), 4, "abc", nil},
		{"as much as the limit", strings.NewReader("abcd"), 4, "abcd", nil},
		{"more than the limit", strings.NewReader("abcde"), 4, "", ErrTooLarge},
		{"without end", endless{}, 1 << 10, "", ErrTooLarge},
		{"nothing, where nothing may be", strings.NewReader(""), 0, "", nil},
		{"something where nothing may be", strings.NewReader("a"), 0, "", ErrTooLarge},
		{"the largest limit there is", strings.NewReader("abc"), math.MaxInt64, "abc", nil},
		{"a reader that fails", iotest.ErrReader(errBroken), 4, "", errBroken},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := ReadBounded(tt.r, tt.limit)
			if string(got) != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func TestReadVerified(t *testing.T) {
	desc := descriptorOf("content")
	for _, tt := range []struct {
		law     string
		r       io.Reader
		desc    Descriptor
		limit   int64
		want    string
		wantErr error
	}{
		{"the content, at the limit", strings.NewReader("content"), desc, 7, "content", nil},
		{"an announcement above the limit", iotest.ErrReader(errBroken), desc, 6, "", ErrTooLarge},
		{"other content", strings.NewReader("contend"), desc, 100, "", ErrMismatch},
		{"more than announced, at the limit", strings.NewReader("contents"), desc, 7, "", ErrMismatch},
		{"less than announced", strings.NewReader("conten"), desc, 100, "", ErrMismatch},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := ReadVerified(tt.r, tt.desc, tt.limit)
			if string(got) != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

// FuzzVerifier holds that content passes exactly when it is the one announced.
func FuzzVerifier(f *testing.F) {
	f.Add([]byte("content"), []byte("content"), int64(7), uint8(3))
	f.Add([]byte("content"), []byte("contend"), int64(7), uint8(1))
	f.Add([]byte(""), []byte("x"), int64(-1), uint8(0))
	f.Fuzz(func(t *testing.T, announced, sent []byte, size int64, chunk uint8) {
		desc := Descriptor{Digest: FromBytes(announced), Size: size}
		var out bytes.Buffer
		_, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{NewVerifier(bytes.NewReader(sent), desc)}, make([]byte, int(chunk)+1))
		want := bytes.Equal(announced, sent) && size == int64(len(sent))
		if got := err == nil; got != want {
			t.Fatalf("%q of %d bytes announced, %q sent: passes %t (%v), want %t", announced, size, sent, got, err, want)
		}
		if err == nil && !bytes.Equal(out.Bytes(), sent) {
			t.Fatalf("got %q, want %q", out.Bytes(), sent)
		}
	})
}
