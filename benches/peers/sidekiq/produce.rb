# `produce.rb COUNT warm|work`: as many jobs, 500 in a request.

require_relative "tally"

BATCH = 500
count, sort = ARGV
left = Integer(count)
# connected before the clock starts
Sidekiq.redis(&:ping)
began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
while left.positive?
  batch = [left, BATCH].min
  Sidekiq::Client.push_bulk("class" => Noop, "args" => Array.new(batch) { [sort] })
  left -= batch
end
puts %({"seconds":#{Process.clock_gettime(Process::CLOCK_MONOTONIC) - began}})
