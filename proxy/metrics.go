package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/oci"
)

// metrics are what the proxy counts. Labels are kinds of requests and classes of statuses, both closed sets.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	bytes      *prometheus.CounterVec
	tombstones prometheus.Counter
	lastGood   *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_requests_total",
			Help: "Requests answered, by kind and class of status; broken counts answers broken off in the middle.",
		}, []string{"kind", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidewaiter_request_duration_seconds",
			Help:    "Time from the request to the end of its answer, waiting for a verdict included.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 5, 15, 30, 60, 300},
		}, []string{"kind"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_served_bytes_total",
			Help: "Bytes of answers' bodies, by kind of request.",
		}, []string{"kind"}),
		tombstones: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidewaiter_tombstones_total",
			Help: "Mirror requests answered with the digest of a refusal.",
		}),
		lastGood: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidewaiter_last_good_total",
			Help: "Requests by tag answered with what the tag stood for before, by why what it stands for now is not to be had.",
		}, []string{"why"}),
	}
	for _, why := range []string{lastGoodDenied, lastGoodPending} { // there from the start, so that whoever alerts sees the first one
		m.lastGood.WithLabelValues(why)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.duration, m.bytes, m.tombstones, m.lastGood}
}

func (m *metrics) count(kind oci.Kind, a *answer, took time.Duration, broken bool) {
	m.requests.WithLabelValues(kind.String(), class(a.status, broken)).Inc()
	m.duration.WithLabelValues(kind.String()).Observe(took.Seconds())
	m.bytes.WithLabelValues(kind.String()).Add(float64(a.bytes))
}

func class(status int, broken bool) string {
	switch {
	case broken:
		return "broken"
	case status >= 500:
		return "5xx"
	case status >= 400:
		return "4xx"
	case status >= 300:
		return "3xx"
	default:
		return "2xx"
	}
}
