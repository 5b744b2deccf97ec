#!/bin/sh
# One training on four machines of Vertex AI: sh vertex.sh PROJECT REGION BUCKET IMAGE
# IMAGE is a container with tfyolo[train] whose entry point is `tfyolo`. The bucket is mounted as /gcs/BUCKET on all
# machines, which get TF_CONFIG; the first pool is the chief. What is restarted goes on by itself: --resume.
set -eu
project=$1 region=$2 bucket=$3 image=$4

cat > job.yaml <<END
workerPoolSpecs:
  - &pool
    machineSpec: {machineType: n1-standard-16, acceleratorType: NVIDIA_TESLA_T4, acceleratorCount: 4}
    replicaCount: 1
    containerSpec: &container
      imageUri: $image
      args: [train, yolov8n, data=/gcs/$bucket/images, train.batch=256, train.save_minutes=10,
             --out, /gcs/$bucket/runs/a, --resume]
  - <<: *pool
    replicaCount: 3
scheduling:
  restartJobOnWorkerRestart: true
END

gcloud ai custom-jobs create --project="$project" --region="$region" --display-name=tfyolo --config=job.yaml
